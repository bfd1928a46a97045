"""Sources and logs from their text on the command line, with their settings; dates from text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import polars as pl

from ecdctr import factory
from ecdctr.replay.sources import KafkaSource, Log, Source, SourceLog, open_source, parse_options
from ecdctr.settings import Loaded, Settings
from ecdctr.state.errors import ConfigError
from ecdctr.streams.retry import call_until_available

__all__ = ["moment", "open_log", "open_with_features"]

KAFKA_OPTIONS = ("window", "offsets")


def open_with_features(text: str, loaded: Loaded) -> tuple[Source, Settings]:
    """Open a source; return it and the settings, with the source's features unless the user configured some."""
    features = loaded.settings.features if "features" in loaded.origin else None
    source = open_source(text, features=features, join=loaded.settings.join)
    settings = loaded.settings
    specs = getattr(source, "feature_specs", None)
    if specs is not None:
        settings = factory.use_features(settings, specs(), configured="features" in loaded.origin)
    events = settings.events
    extra = {
        key: name
        for key, name in (("list_field", "list_id"), ("oracle_field", "oracle"))
        if getattr(events, key) is None and name in getattr(source, "extra_fields", ())
    }
    return source, settings.model_copy(update={"events": events.model_copy(update=extra)})


def moment(text: str | None, option: str = "--until") -> int | None:
    """A date or a date with a time (UTC unless it contains an offset) as milliseconds since the epoch; None for None.

    >>> moment("1970-01-02"), moment("1970-01-01T01:00+01:00")
    (86400000, 0)
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} {text!r} is not a date: write it as 2026-01-31 or 2026-01-31T18:00"
        ) from error
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


@contextmanager
def open_log(text: str, loaded: Loaded, *, history: bool = False) -> Iterator[tuple[Log, Settings]]:
    """Open a log: both click topics (``kafka``, ``kafka:window=1h,offsets=...``) or a source.

    With ``history``, the training data of TPM: the history of a source that has one, else all of its rows.
    """
    if text != "kafka" and not text.startswith("kafka:"):
        source, settings = open_with_features(text, loaded)
        chosen = _History(source) if history and hasattr(source, "history") else source
        yield SourceLog(chosen, factory.decoder(settings)), settings
        return
    settings = loaded.settings
    values = parse_options(text, text.partition(":")[2], ",", KAFKA_OPTIONS)

    def connect() -> KafkaSource:
        kafka = factory.kafka_log(settings, factory.decoder(settings))
        try:
            return KafkaSource(kafka, **values)
        except BaseException:
            kafka.close()
            raise

    found = call_until_available(connect, settings.worker.connect_timeout_s, lambda: False)
    with found.log:
        yield found, settings


class _History:
    """The history of a source that has one."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name

    def frames(self) -> Iterator[pl.DataFrame]:
        history: Callable[[], Iterator[pl.DataFrame]] = self.source.history  # type: ignore[attr-defined]
        return history()

    def count(self) -> int | None:
        return None
