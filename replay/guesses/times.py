"""Which column is the event time, and how its values are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ecdctr.events.time import DAY_MS, HOUR_MS
from ecdctr.events.values import time_of_text, times
from ecdctr.replay.guesses.findings import Confidence, Found
from ecdctr.replay.guesses.names import hint, says, tokens
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.sources import TimeMap

__all__ = ["TimeReading", "find_time", "readings"]

_EARLIEST, _LATEST = 946_684_800_000, 2_524_608_000_000
"""2000 and 2050, ms: outside of it a number is not taken for a time."""
_UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DIGITS = {8: ("%y%m%d%H", "%Y%m%d"), 10: ("%Y%m%d%H",), 12: ("%Y%m%d%H%M",), 14: ("%Y%m%d%H%M%S",)}
_DAYS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d %b %Y",
    "%b %d, %Y",
    "%b %d %Y",
    "%Y年%m月%d日",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%Y%m%d",
)
_CLOCKS = (
    "",
    " %H:%M:%S",
    " %H:%M",
    " %H:%M:%S%.f",
    " %I:%M:%S %p",
    " %I:%M %p",
    "T%H:%M:%S",
    ", %H:%M:%S",
    ", %H:%M",
    " %H:%M:%S %z",
)
_OTHERS = (
    "%d/%b/%Y:%H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %z %Y",
)
_FORMATS = (*_OTHERS, *(day + clock for day in _DAYS for clock in _CLOCKS))
_TRIED = 400
_DAYTIMES = {
    "%H:%M:%S": r"^[0-2]?\d:[0-5]\d:[0-5]\d$",
    "%H:%M": r"^[0-2]?\d:[0-5]\d$",
    "%H%M": r"^[0-2]\d[0-5]\d$",
}
_ORIGIN = "2026-01-01"


@dataclass(eq=False)
class TimeReading:
    """A column read as the event time.

    Attributes
    ----------
    spec
        Value of ``ts`` in the mapping file: the column, or how it is read.
    ms
        Milliseconds since the epoch of each row, null where it has none.
    text
        How it is read, in words.
    look
        What a person should check.
    limit
        How sure the reading of the values can be.
    """

    profile: Profile
    spec: str | TimeMap
    ms: pl.Series
    text: str
    look: str | None = None
    limit: Confidence = "sure"

    @property
    def known(self) -> NDArray[np.int64]:
        """The times without the missing ones."""
        return self.ms.drop_nulls().to_numpy()

    @property
    def ascending(self) -> float:
        """Share of neighbouring rows that are not earlier."""
        known = self.known
        return float((known[1:] >= known[:-1]).mean()) if len(known) > 1 else 0.0

    @property
    def resolution(self) -> int:
        """Milliseconds of which all times are multiples: a day, an hour, or less."""
        for unit in (DAY_MS, HOUR_MS, 60_000, 1000):
            if not (self.known % unit).any():
                return unit
        return 1


def readings(profile: Profile) -> list[TimeReading]:
    """The ways in which a column can be the event time; empty if it cannot be one."""
    if profile.kind == "time":
        return _of_time_type(profile)
    if profile.kind == "integer" or (profile.kind == "number" and profile.ascending > 0.9):
        return _of_numbers(profile)
    return _of_text(profile) if profile.kind == "text" else []


def _of_time_type(profile: Profile) -> list[TimeReading]:
    ms = times(profile.column)
    if ms is None:
        return []
    zone = getattr(profile.column.dtype, "time_zone", None)
    naive = profile.column.dtype != pl.Date and zone is None
    look = (
        "the times name no zone and are read as UTC: only the hour of the day depends on it"
        if naive
        else None
    )
    return [TimeReading(profile, profile.name, ms, f"a time column{f' in {zone}' if zone else ''}", look)]


def _of_numbers(profile: Profile) -> list[TimeReading]:
    known = profile.known
    out: list[TimeReading] = []
    if profile.kind == "integer" and len(known):
        width = len(str(int(np.abs(known).max())))
        for form in _DIGITS.get(width, ()):
            found = _by_format(profile, form, 1.0)
            if found is not None:
                return [found]
    for unit, factor in _UNITS.items():
        middle = float(np.median(known)) * factor
        if _EARLIEST <= middle <= _LATEST:
            spec = TimeMap(column=profile.name, unit=unit)  # type: ignore[arg-type]
            ms = _evaluated(profile, spec)
            inside = ((ms >= _EARLIEST) & (ms <= _LATEST)).fill_null(False)
            if inside.sum() >= 0.9 * len(profile.values):
                out.append(TimeReading(profile, spec, ms, f"{_NAMES[unit]} since 1970, by their size"))
    if (
        not out
        and hint("time", profile.name)
        and known.min() >= 0
        and profile.ascending > 0.9
        and profile.distinct > 20
    ):
        unit = "ms" if {"ms", "millis"} & set(tokens(profile.name)) else "s"
        spec = TimeMap(column=profile.name, unit=unit, origin=_ORIGIN)  # type: ignore[arg-type]
        look = f"the numbers begin near {known.min():,.0f}: set origin to the moment that 0 stands for, and unit ({unit} is a guess)"
        out.append(
            TimeReading(
                profile,
                spec,
                _evaluated(profile, spec),
                f"{_NAMES[unit]} since an unknown moment",
                look,
                limit="guess",
            )
        )
    return out


def _of_text(profile: Profile) -> list[TimeReading]:
    values = profile.values
    digits = values.cast(pl.Int64, strict=False)
    if 0.7 * len(values) <= len(values) - digits.null_count() < len(values):
        numbers = Profile(profile.raw.cast(pl.Int64, strict=False))
        return [_of_the_rest(profile, reading) for reading in _of_numbers(numbers)]
    if not values.str.contains(r"\d").head(20).all() or values.str.len_chars().max() > 40:  # type: ignore[operator]
        return []
    head = values.head(_TRIED).to_list()
    iso = sum(time_of_text(text.strip()) is not None for text in head)
    if iso >= 0.98 * len(head):
        ms = pl.Series(
            profile.name,
            [None if v is None else time_of_text(v.strip()) for v in profile.column],
            dtype=pl.Int64,
        )
        zoned = bool(re.search(r"(Z|[+-]\d\d:?\d\d)$", head[0].strip()))
        look = (
            None
            if zoned
            else "the texts name no zone and are read as UTC: only the hour of the day depends on it"
        )
        return [TimeReading(profile, profile.name, ms, f"dates as {head[0]!r} (ISO 8601)", look)]
    if not re.search(r"\d{2}.*\d{2}", head[0]):
        return []
    few = Profile(values.head(_TRIED))
    out: list[TimeReading] = []
    for form in _FORMATS:
        if _by_format(few, form, 0.98) is None:
            continue
        found = _by_format(profile, form, 0.95)
        if found is not None and not any(found.ms.equals(other.ms) for other in out):
            out.append(found)
    return _by_the_order(out)


def _of_the_rest(profile: Profile, reading: TimeReading) -> TimeReading:
    """A reading of most values of a column of texts; the others are no times."""
    share = reading.ms.null_count() / max(1, len(reading.ms))
    return TimeReading(
        profile,
        reading.spec,
        reading.ms,
        reading.text,
        f"{share:.1%} of the values are no time: their rows are left out",
        limit="guess",
    )


def _by_the_order(found: list[TimeReading]) -> list[TimeReading]:
    """Of formats that all values have, the one in which rows follow each other, and the days cover the shortest time."""
    if len(found) < 2:
        return found

    def fit(reading: TimeReading) -> tuple[float, float]:
        return (round(reading.ascending, 2), -float(np.ptp(reading.known)))

    found = sorted(found, key=fit, reverse=True)
    best, other = found[0], found[1]
    assert isinstance(best.spec, TimeMap) and isinstance(other.spec, TimeMap)
    best.look = (
        f"every value can also be read as {other.spec.format}; {best.spec.format} gives the more regular log"
    )
    best.limit = "guess" if np.ptp(other.known) < 3 * np.ptp(best.known) else "likely"
    return [best]


def _by_format(profile: Profile, form: str, share: float) -> TimeReading | None:
    try:
        spec = TimeMap(column=profile.name, format=form)
        ms = _evaluated(profile, spec)
    except pl.exceptions.PolarsError:
        return None
    inside = ((ms >= _EARLIEST) & (ms <= _LATEST)).fill_null(False)
    if not len(profile.values) or inside.sum() < share * len(profile.values):
        return None
    example = str(profile.values[0])
    look = None
    if not re.search(r"%:?z|%Z", form):
        look = 'the values name no zone and are read as UTC: set zone = "Europe/Berlin" or yours (only the hour of the day depends on it)'
    return TimeReading(profile, spec, ms, f"{example!r} has the format {form}", look)


def _evaluated(profile: Profile, spec: TimeMap) -> pl.Series:
    return pl.DataFrame([profile.raw]).select(spec.expression()).to_series()


def find_time(profiles: Sequence[Profile], found: Found) -> TimeReading | None:
    """The event time of a table: a column that is filled in every row, and advances with the rows.

    Other times are left out: those of clicks and purchases are known only later.
    """
    candidates: list[tuple[float, TimeReading]] = []
    for profile in profiles:
        for reading in readings(profile):
            candidates.append((_score(profile, reading), reading))
    candidates = [(score, reading) for score, reading in candidates if score > 0]
    if not candidates:
        return None
    candidates.sort(key=lambda pair: -pair[0])
    best = candidates[0][1]
    if best.resolution >= DAY_MS:
        best = _with_clock(best, profiles) or best
    known = best.known
    named = hint("time", best.profile.name)
    order = (
        "rows are in its order"
        if best.ascending >= 0.99
        else f"{best.ascending:.0%} of the rows are not earlier than the row before"
    )
    span = f"{_day(int(known.min()))} to {_day(int(known.max()))}"
    plain = named and best.profile.nulls < 0.05
    confidence: Confidence = best.limit if best.limit != "sure" else "sure" if plain else "likely"
    look = best.look
    if best.resolution >= DAY_MS:
        look = "there is no time of day: the rows of a day are learned together, and their order is unknown"
    found.add("time", best.profile.name, "event time", confidence, f"{best.text}; {span}; {order}", look)
    for other in {reading.profile.name: reading for _, reading in candidates[1:]}.values():
        name = other.profile.name
        a_time = bool(hint("time", name) or says("other time", name)) or not other.profile.is_number
        if other.profile is not best.profile and a_time and not says("after", name):
            found.add(
                "left out", name, "another time", "likely", f"{best.profile.name} fits the event time better"
            )
    return best


def _with_clock(date: TimeReading, profiles: Sequence[Profile]) -> TimeReading | None:
    """A date together with a column of times of day: texts as 18:05:30, or numbers as 1805."""
    if isinstance(date.spec, TimeMap) and date.spec.format is None:
        return None
    day = date.spec.format if isinstance(date.spec, TimeMap) else "%Y-%m-%d"
    for profile in profiles:
        binary = profile.raw.dtype == pl.Binary
        if binary or profile is date.profile or profile.kind not in ("text", "integer", "time"):
            continue
        texts = profile.raw.cast(pl.String, strict=False).drop_nulls()
        digits = profile.kind == "integer" and hint("time", profile.name) and profile.distinct > 10
        for clock, pattern in _DAYTIMES.items():
            if clock == "%H%M" and not digits:
                continue
            if len(texts) < 0.95 * profile.n or not texts.str.zfill(4).str.contains(pattern).all():
                continue
            spec = TimeMap(column=date.profile.name, clock=profile.name, format=f"{day} {clock}")
            ms = pl.DataFrame([date.profile.raw, profile.raw]).select(spec.expression()).to_series()
            if ms.null_count() <= 0.05 * len(ms):
                look = 'the values name no zone and are read as UTC: set zone, as zone = "Europe/Berlin" (only the hour of the day depends on it)'
                return TimeReading(
                    date.profile,
                    spec,
                    ms,
                    f"{date.text}, with the time of day in {profile.name}",
                    look,
                    date.limit,
                )
    return None


def _score(profile: Profile, reading: TimeReading) -> float:
    named = hint("time", profile.name)
    score = 2 * named + reading.ascending - 6 * profile.nulls
    score += 0.5 * (profile.distinct > 0.2 * len(profile.values)) - 0.7 * (reading.resolution >= DAY_MS)
    score += 1.0 * (reading.ascending > 0.99) + 0.3 * (profile.kind == "time")
    if says("after", profile.name) or says("other time", profile.name):
        score -= 3
    if isinstance(reading.spec, TimeMap) and reading.spec.origin == _ORIGIN:
        score -= 0.8
    if not named and isinstance(reading.spec, TimeMap) and profile.is_number and reading.ascending < 0.9:
        score -= 0.6  # numbers of this size may be identifiers
    return score if profile.distinct > 1 else 0.0


def _day(ms: int) -> str:
    return str(np.datetime64(ms, "ms").astype("datetime64[m]")).replace("T", " ")
