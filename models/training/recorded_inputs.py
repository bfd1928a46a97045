"""``RecordedInputs``: the settings that determine the rows of a step, as checkpoints and journal record them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ecdctr.state.errors import JournalDamagedError, StateError
from ecdctr.state.journals import JournalEntry

__all__ = ["RecordedInputs", "input_differences"]

_TOPICS = {"natural": "topics.natural", "ad": "topics.ad"}
"""The key of the topic whose rows the steps of a kind learn."""


class RecordedInputs:
    """Compares the configured inputs with those of the steps that were learned.

    The rows of a journaled step are decoded again when it is repeated. With other settings of the decoder these would be other rows,
    and with the two topics exchanged, the streams would be. The first entry of the journal after a change contains the new inputs
    (``extra["inputs"]``), and a checkpoint those of its last step.

    Parameters
    ----------
    configured
        Values by key of the configuration: the topics, and every key of ``events`` that differs from its default. None: unknown.
    """

    def __init__(self, configured: Mapping[str, Any] | None) -> None:
        self.configured: dict[str, Any] | None = (
            None if configured is None else json.loads(json.dumps(configured, default=str))
        )
        self.recorded: dict[str, Any] | None = None

    def change(self) -> dict[str, Any]:
        """What the next journal entry must contain."""
        return {} if self.configured in (None, self.recorded) else {"inputs": self.configured}

    def apply(self, extra: Mapping[str, Any]) -> None:
        """Follow a journal entry."""
        self.recorded = extra.get("inputs", self.recorded)

    def checked(self, entries: Iterable[JournalEntry]) -> Iterator[JournalEntry]:
        """The entries of the journal that follow the recorded inputs, if they can be repeated with the configured ones.

        Raises
        ------
        StateError
            They were learned with other settings, or the topics of the two streams were exchanged; the message names the keys.
        """
        recorded = self.recorded
        for entry in entries:
            recorded = entry.extra.get("inputs", recorded)
            self._check_topics(recorded, entry)
            differ = [] if not entry.parts else input_differences(recorded, self.configured)
            if differ:
                raise StateError(
                    f"{'; '.join(differ)}. Step {entry.step} of the journal, which is not part of a checkpoint, must be repeated with "
                    "the same rows: restore the former value, start, and stop the worker with SIGTERM, which writes a checkpoint; "
                    "then change it"
                )
            yield entry
        self._check_topics(recorded, None)

    def check_old(self, entries: Iterable[JournalEntry]) -> None:
        """Compare the topics with the steps of a journal of an older version, which recorded no inputs.

        Raises
        ------
        StateError
            The topics of the two streams were exchanged.
        """
        seen: set[str] = set()
        with contextlib.suppress(JournalDamagedError):  # files before the checkpoint need not be whole
            for entry in entries:
                self._check_topics(None, entry)
                seen.add(entry.kind)
                if seen >= set(_TOPICS):
                    return

    def _check_topics(self, recorded: Mapping[str, Any] | None, entry: JournalEntry | None) -> None:
        """Refuse a topic that is configured as one stream and from which the model has learned the other one."""
        learned = {kind: recorded.get(key) for kind, key in _TOPICS.items()} if recorded else {}
        if recorded is None and entry is not None and entry.kind in _TOPICS and entry.parts:
            learned = {entry.kind: entry.parts[0].topic}  # an older version wrote the entry
        configured = {kind: (self.configured or {}).get(key) for kind, key in _TOPICS.items()}
        for kind, topic in learned.items():
            for other, name in configured.items():
                if topic is not None and other != kind and name == topic:
                    raise StateError(
                        f"{_TOPICS[other]} = {topic!r}, but the model has learned {_named(kind)} from this topic: set {_TOPICS[kind]} = "
                        f"{topic!r} again, and {_TOPICS[other]} to its former topic, or set state.folder to a new folder"
                    )


def input_differences(recorded: Mapping[str, Any] | None, configured: Mapping[str, Any] | None) -> list[str]:
    """A sentence for each key that was different when steps were learned; topics are compared elsewhere, by their offsets.

    >>> input_differences({"topics.ad": "a", "events.max_string": 64}, {"topics.ad": "b", "events.max_string": 9})
    ['events.max_string = 9, and it was 64 when the steps were learned']
    """
    if recorded is None or configured is None:
        return []
    found = []
    for key in sorted({*recorded, *configured} - set(_TOPICS.values())):
        if recorded.get(key) != configured.get(key):
            now = f"{key} = {configured[key]!r}" if key in configured else f"{key} has its default"
            was = f"it was {recorded[key]!r}" if key in recorded else "it had its default"
            found.append(f"{now}, and {was} when the steps were learned")
    return found


def _named(kind: str) -> str:
    return "ads" if kind == "ad" else "natural rows"
