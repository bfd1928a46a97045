"""``ecdctr init --brokers``: a configuration for topics that exist, guessed from their last messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ecdctr.commands.init import CONFIG, print_findings, refuse_to_overwrite
from ecdctr.events.settings import KafkaSettings
from ecdctr.replay.guesses import (
    Proposal,
    Sample,
    feature_lines,
    frame_of_rows,
    propose,
    settings_lines,
    stream_of_name,
)
from ecdctr.state.errors import ConfigError, RowsRejectedError
from ecdctr.streams.doctor import topic_rows

__all__ = ["init_topics"]

_FIELDS = {"ts": "time", "user_id": "user", "item_id": "item", "label": "label"}


def init_topics(
    out: Console,
    kafka: KafkaSettings,
    topics: Sequence[str],
    folder: Path,
    *,
    messages: int,
    roles: Mapping[str, str],
    force: bool,
) -> Path:
    """Sample topics, guess the features of their events, and write the configuration.

    Unlike a file, a live message is read by its own names of fields: another name of a required field is an error that says how the
    producer has to call it.

    Raises
    ------
    StreamError
        A topic cannot be read.
    RowsRejectedError
        The messages are no events, or a required field has another name.
    """
    if len(topics) > 2 or len(set(topics)) < len(topics):
        raise ConfigError("--topic: name one or two topics, that of the natural stream and that of the ads")
    config = folder / CONFIG
    refuse_to_overwrite((config,), force)
    samples: list[Sample] = []
    for topic in topics:
        found = topic_rows(kafka, topic, messages)
        if not found.rows:
            raise RowsRejectedError(
                f'topic "{topic}" holds no message that is JSON or packed Arrow: {found.messages:,} were read'
            )
        rows = round(found.held * len(found.rows) / max(1, found.messages))
        frame = frame_of_rows(found.rows)
        samples.append(Sample(topic, [], None, frame, rows, len(frame) >= rows, text_numbers=False))
    _name_streams(samples)
    proposal = propose(samples, roles)
    _check_fields(proposal)
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(_config_text(proposal, kafka), encoding="utf-8")
    print_findings(out, proposal, proposal.passed_over)
    where = "" if folder.resolve() == Path.cwd() else f" --config {config}"
    out.print(f'\nwritten: {config}. Read the lines under "check", then:', soft_wrap=True)
    out.print(f"  ecdctr doctor{where}\n  ecdctr replay kafka{where} --out first", soft_wrap=True)
    return config


def _name_streams(samples: list[Sample]) -> None:
    """The stream of each topic: by its name; of two topics the smaller one is that of the ads, if no name says it."""
    for sample in samples:
        sample.stream = stream_of_name(sample.label)
    if len(samples) == 2 and len({sample.stream for sample in samples}) < 2:
        samples[0].stream = samples[1].stream = None
    said = {sample.stream for sample in samples} - {None}
    for sample in sorted(samples, key=lambda s: s.rows):
        if sample.stream is None:
            sample.stream = "ad" if "ad" not in said else "natural"
            said.add(sample.stream)


def _check_fields(proposal: Proposal) -> None:
    for table in proposal.tables:
        time = table.time
        actual = {
            "ts": time.profile.name,
            "user_id": table.user,
            "item_id": table.item,
            "label": table.label.label or ", ".join(table.label.used),
        }
        wrong = [
            f"{name!r} looks like its {_FIELDS[field]} and has to be called {field}"
            for field, name in actual.items()
            if name != field
        ]
        if not isinstance(time.spec, str) and time.spec.unit != "ms":
            wrong.append(
                f"{time.profile.name} has to be milliseconds since 1970 or text in ISO 8601 ({time.text})"
            )
        if "event_id" not in table.sample.frame.columns:
            wrong.append("the field event_id is missing")
        if wrong:
            raise RowsRejectedError(
                f'the messages of topic "{table.sample.label}" are no events that a worker reads: {"; ".join(wrong)}. Change the producer, or write the '
                "log to files and use `ecdctr init FILES`, which maps other names"
            )


def _config_text(proposal: Proposal, kafka: KafkaSettings) -> str:
    names = {table.stream.domain: table.sample.label for table in proposal.tables}
    brokers = ", ".join(f'"{broker}"' for broker in kafka.brokers)
    lines = [
        "# Configuration for the topics below, written by `ecdctr init`. `ecdctr config show` explains every key.",
        "",
        "[kafka]",
        f"brokers = [{brokers}]",
        *(
            [
                f'security = "{kafka.security}"  # add user and certificates as they were given to `ecdctr init`'
            ]
            if kafka.security != "plaintext"
            else []
        ),
        "",
        "[topics]",
    ]
    for domain, example in (("natural", "natural-clicks"), ("ad", "ad-clicks")):
        missing = "" if domain in names else "  # no such topic was named: it has to exist before a replay"
        lines.append(f'{domain} = "{names.get(domain, example)}"{missing}')
    lines += [
        "",
        "[state]",
        'folder = "state"',
        "",
        *settings_lines(proposal.rows, proposal.span_ms),
        "",
        *feature_lines(proposal.features),
    ]
    return "\n".join(lines) + "\n"
