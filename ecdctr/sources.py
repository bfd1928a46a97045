"""From a line of text to a source with its settings, and from words to moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import polars as pl

from ecdctr import build
from ecdctr.settings import Loaded, Settings
from replay.source import Source, open_source
from state.errors import ConfigError

__all__ = ["CutSource", "history_of", "moment", "open_with_features"]


def open_with_features(text: str, loaded: Loaded) -> tuple[Source, Settings]:
    """The source, and the settings with the source's own features unless the user configured some."""
    source = open_source(text, features=loaded.settings.features if "features" in loaded.origin else None)
    settings = loaded.settings
    specs = getattr(source, "feature_specs", None)
    if specs is not None:
        settings = build.use_features(settings, specs(), configured="features" in loaded.origin)
    events = settings.events
    extra = {
        key: name
        for key, name in (("list_field", "list_id"), ("oracle_field", "oracle"))
        if getattr(events, key) is None and name in getattr(source, "extra_fields", ())
    }
    return source, settings.model_copy(update={"events": events.model_copy(update=extra)})


def moment(text: str | None, option: str = "--until") -> int | None:
    """A date or a date with a time (UTC unless it says otherwise) as ms since the epoch.

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


class CutSource:
    """A source without its rows from a moment on."""

    def __init__(self, source: Source, until_ms: int) -> None:
        self.source, self.until_ms = source, until_ms
        self.name = source.name

    def frames(self) -> Iterator[pl.DataFrame]:
        return self._cut(self.source.frames())

    def history(self) -> Iterator[pl.DataFrame]:
        return self._cut(history_of(self.source))

    def count(self) -> int | None:
        return None

    def _cut(self, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for frame in frames:
            kept = frame.filter(pl.col("ts") < self.until_ms)
            if kept.height:
                yield kept
            if kept.height < frame.height:
                return  # frames come in event order


def history_of(source: Source) -> Iterator[pl.DataFrame]:
    """What TPM learns from: a source's own history where it has one, else all of it."""
    history: Callable[[], Iterator[pl.DataFrame]] | None = getattr(source, "history", None)
    return source.frames() if history is None else history()
