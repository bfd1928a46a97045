"""Which rows are ads, and which are natural content: by a column, or by the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecdctr.replay.guesses.findings import Found
from ecdctr.replay.guesses.names import hint, tokens
from ecdctr.replay.guesses.profiles import Profile

__all__ = ["StreamReading", "find_stream"]

_MOST_VALUES = 30
_CHANNELS = frozenset(
    [
        "display",
        "cpc",
        "paid",
        "promo",
        "commercial",
        "search",
        "feed",
        "feeds",
        "news",
        "home",
        "recommendation",
        "recommended",
        "reco",
    ]
)


@dataclass(eq=False)
class StreamReading:
    """The domain of a table: ``ad`` or ``natural`` for all of its rows, or a column with its values."""

    domain: str | None
    column: str | None = None
    ad: tuple[Any, ...] = ()
    natural: tuple[Any, ...] = ()


def find_stream(
    profiles: Sequence[Profile], by_path: str | None, label: str, found: Found, *, paired: bool = True
) -> StreamReading:
    """The stream of the rows of a table.

    1. The name of its files or folder, as ``ads.csv``, if the names of others say the other stream (``paired``).
    2. A column of true and false whose name says ads: ``is_sponsored``.
    3. A column with few values, some of which are words for ads.
    4. The name of its files or folder.
    5. Else all rows are ads: the natural stream is empty.
    """
    if by_path is not None and paired:
        return _by_path(by_path, label, found)
    for profile in profiles:
        reading = _flag(profile) or _words(profile)
        if reading is None:
            continue
        if by_path == "ad" and profile.zero_one is None and not _plain(reading):
            continue  # channels of ads are named as streams are: display and search
        values = f"ad: {_texts(reading.ad)}; natural: {_texts(reading.natural)}"
        ads = float(np.mean([v in reading.ad for v in profile.raw.drop_nulls().to_list()]))
        unsaid = [v for v in reading.natural if not hint("natural", str(v)) and profile.zero_one is None]
        look = (
            f"{_texts(unsaid[:6])} {'is' if len(unsaid) == 1 else 'are'} taken as natural" if unsaid else None
        )
        found.add(
            "stream",
            profile.name,
            values,
            "likely" if unsaid else "sure",
            f"{ads:.0%} of the rows are ads; rows with another value are left out",
            look,
        )
        return reading
    if by_path is not None:
        return _by_path(by_path, label, found)
    found.add(
        "stream",
        "",
        "all rows are ads",
        "guess",
        "no column and no file name tells ads from natural content",
        "add the log of natural content as a second table: without it, nothing can be transferred to ads",
    )
    return StreamReading("ad")


def _plain(reading: StreamReading) -> bool:
    """Whether all values say ads or natural content, and none may be a channel by which an ad came."""
    values = [str(v) for v in (*reading.ad, *reading.natural)]
    return all((hint("ad", v) or hint("natural", v)) and not _CHANNELS & set(tokens(v)) for v in values)


def _by_path(stream: str, label: str, found: Found) -> StreamReading:
    found.add(
        "stream",
        "",
        "all rows are ads" if stream == "ad" else "all rows are natural content",
        "likely",
        f"the name of {label} says so",
        None,
    )
    return StreamReading(stream)


def _flag(profile: Profile) -> StreamReading | None:
    if profile.zero_one is None or profile.distinct < 2 or hint("click", profile.name):
        return None
    said = {stream: hint(stream, profile.name) for stream in ("ad", "natural")}
    if max(said.values()) < 1 or said["ad"] == said["natural"]:
        return None
    pairs = {
        (flag, value)
        for flag, value in zip(profile.zero_one.tolist(), profile.raw.to_list(), strict=True)
        if value is not None
    }
    if any(isinstance(value, float) for _, value in pairs):
        return None
    ones, zeros = (tuple(sorted((v for f, v in pairs if f == flag), key=str)) for flag in (1.0, 0.0))
    return StreamReading(None, profile.name, *((ones, zeros) if said["ad"] else (zeros, ones)))


def _words(profile: Profile) -> StreamReading | None:
    if profile.kind != "text" or not 2 <= profile.distinct <= _MOST_VALUES or profile.repeats < 3:
        return None
    values = sorted(str(v) for v in profile.values.unique())
    ads = [v for v in values if hint("ad", v) and not hint("natural", v)]
    named = max(hint("stream", profile.name), hint("ad", profile.name))
    natural = [v for v in values if hint("natural", v) and v not in ads]
    if not ads or len(ads) == len(values) or not (named or natural):
        return None
    return StreamReading(None, profile.name, tuple(ads), tuple(v for v in values if v not in ads))


def _texts(values: Sequence[Any]) -> str:
    return ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
