"""The decoder that a configuration determines; unlike the factory, without the models, whose import takes seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ecdctr.events.decoder import EventDecoder
from ecdctr.events.isolation import guard_packed
from ecdctr.events.time import duration_ms
from ecdctr.settings import Settings
from ecdctr.state.errors import ConfigError, DataError

__all__ = ["decoder", "input_settings", "reads_snapshots"]

_OF_EACH_STEP = ("max_ahead",)
"""Keys of ``events`` that the journal records with each step: a redo uses the value of that time."""


def decoder(settings: Settings) -> EventDecoder:
    """The decoder of events as configured; packed messages are read by a process of their own."""
    events = settings.events
    made = EventDecoder(
        settings.features,
        max_string=events.max_string,
        ts_min_ms=_millis("events.ts_min", events.ts_min),
        ts_max_ms=_millis("events.ts_max", events.ts_max),
        max_ahead_ms=_length("events.max_ahead", events.max_ahead),
        list_field=events.list_field,
        oracle_field=events.oracle_field,
    )
    return guard_packed(made)


def input_settings(settings: Settings) -> dict[str, Any]:
    """The settings that determine the rows of a step, by key: the topics, and the keys of ``events`` that are not at their default.

    Features are not among them: a checkpoint records their fingerprint.
    """
    events = settings.events.model_dump(mode="json", exclude_defaults=True)
    found = {f"events.{key}": value for key, value in events.items() if key not in _OF_EACH_STEP}
    return found | {"topics.natural": settings.topics.natural, "topics.ad": settings.topics.ad}


def _millis(key: str, date: str) -> int:
    try:
        return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise ConfigError(f"{key} = {date!r} is not a date: write it as 2026-01-31") from error


def _length(key: str, text: str) -> int:
    try:
        return duration_ms(text)
    except DataError as error:
        raise ConfigError(f"{key}: {error}") from error


def reads_snapshots(settings: Settings) -> bool:
    """Whether the models read TPM snapshots, if there are any."""
    return settings.model.history != "none"
