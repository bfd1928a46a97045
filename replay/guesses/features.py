"""Which other columns are features: their kind, the number of hash buckets, and the transformation of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.guesses.findings import Confidence
from ecdctr.replay.guesses.labels import as_lists
from ecdctr.replay.guesses.names import tokens
from ecdctr.replay.guesses.profiles import Profile

__all__ = ["FeatureGuess", "LeftOut", "buckets_for", "expected_distinct", "guess_feature"]

_CODE_WORDS = (
    "id ids code type kind category categories cat class gender sex device os zone city region country state lang language brand postal zip "
    "postcode slot pos position model segment cluster channel site app browser platform carrier network version tier level group hour weekday "
    "day month tipo categoria genero ciudad pais kategorie geschlecht stadt land region leibie xingbie chengshi"
)
_QUANTITY_WORDS = (
    "age price cost count counts num number qty quantity amount rating score size length duration days hours minutes seconds width height salary "
    "income views distance temperature weight year stock discount bid budget rank frequency freq total avg mean n words preis precio prix prezzo "
    "edad alter anzahl cantidad dauer betrag jiage nianling shuliang zhekou"
)
_CODES, _QUANTITIES = frozenset(_CODE_WORDS.split()), frozenset(_QUANTITY_WORDS.split())
_COMMA = r"^\s*-?(\d+|\d{1,3}(\.\d{3})+),\d{1,4}\s*$"
_AMOUNT = r"^\s*[-+]?\s*([A-Z]{3}|\p{Sc})?\s*[-+]?(\d+|\d{1,3}([ ,.'\x{a0}\x{202f}]\d{3})+)([.,]\d+)?\s*([A-Z]{3}|\p{Sc}|%)?\s*$"
_SIGN = r"[A-Z]{3}|\p{Sc}|%|\d[ ,.'\x{a0}\x{202f}]\d{3}[.,]\d"
_MOST_BUCKETS = 20_000_000
_LONGEST = 256
_ROUND = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class FeatureGuess:
    """A feature, the sign between the ids of a bag that is a text, why, and whether its numbers have a decimal comma."""

    spec: FeatureSpec
    separator: str | None
    confidence: Confidence
    why: str
    look: str | None = None
    comma: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why a column is no feature."""

    why: str
    confidence: Confidence = "sure"
    look: str | None = None


def guess_feature(profile: Profile, name: str, rows: int) -> FeatureGuess | LeftOut:
    """What kind of feature a column is, or why it is none.

    Parameters
    ----------
    profile
        The sampled values.
    name
        Name of the feature.
    rows
        Number of rows of the log.
    """
    if profile.kind == "empty":
        return LeftOut("no sampled row has a value")
    if profile.kind == "other":
        return LeftOut(f"values of the type {profile.column.dtype} cannot be read as a feature")
    if profile.kind == "time":
        return LeftOut("a time other than the event time", "likely")
    if profile.distinct == 1 and not 0.02 < profile.nulls < 0.98:
        return LeftOut("it has one value in all sampled rows")
    if profile.kind == "text" and profile.values.str.contains(_COMMA).mean() > 0.98:  # type: ignore[operator]
        points = profile.column.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
        guess = _numeric(Profile(points.str.strip_chars().cast(pl.Float64, strict=False)), name)
        if isinstance(guess, LeftOut):
            return guess
        return replace(guess, comma=True, why=f"{guess.why}, with a decimal comma")
    if profile.kind == "text" and _amounts(profile.values):
        return LeftOut(
            f"amounts as {str(profile.values[0])!r}: a sign or a separator of thousands is not read as a number",
            "sure",
            "write plain numbers, as 1234.56, to use it",
        )
    lists = as_lists(profile)
    if lists is not None:
        return _bag(profile, lists, name, rows)
    if profile.kind == "number" or (profile.kind == "integer" and _is_quantity(profile)[0]):
        return _numeric(profile, name)
    if profile.kind == "text":
        longest = int(profile.values.str.len_bytes().max() or 0)  # type: ignore[arg-type]
        words = float(profile.values.head(1000).str.count_matches(r"\s+").mean() or 0)  # type: ignore[arg-type]
        if longest > _LONGEST or words > 4:
            return LeftOut("free text")
    return _categorical(profile, name, rows)


def _amounts(values: pl.Series) -> bool:
    """Whether texts are numbers with a currency, a percent sign, or both a separator of thousands and a fraction."""
    return bool(
        values.str.contains(_AMOUNT).mean() > 0.98  # type: ignore[operator]
        and values.str.contains(_SIGN).mean() > 0  # type: ignore[operator]
    )


def _is_quantity(profile: Profile) -> tuple[bool, Confidence, str]:
    parts = set(tokens(profile.name))
    known = profile.known
    if parts & _QUANTITIES and not parts & {"id", "code", "category", "cat"}:
        return True, "sure", "its name says a quantity"
    if parts & _CODES:
        return False, "sure", "whole numbers, by its name codes"
    if profile.distinct <= 20:
        return False, "likely", f"{profile.distinct} different whole numbers"
    small = float(np.mean(known <= np.median(known) / 2))
    falling = known.min() in (0, 1) and float(np.mean(known)) > 1.2 * float(np.median(known)) and small > 0.1
    if falling:
        return True, "likely", "whole numbers of which small ones are frequent, as counts are"
    return False, "guess", "whole numbers without the form of a count: taken as codes"


def _numeric(profile: Profile, name: str) -> FeatureGuess | LeftOut:
    floats = profile.column.cast(pl.Float64, strict=False)
    if floats.is_nan().any() or floats.is_infinite().any():
        return LeftOut(
            "it contains NaN or infinity, which is not a missing value here: write null",
            "sure",
            "write null for NaN",
        )
    if profile.kind == "integer":
        _, confidence, why = _is_quantity(profile)
    else:
        confidence, why = "sure", "numbers with fractions"
    known = np.abs(profile.known)
    middle, high = (float(q) for q in np.quantile(known, (0.5, 0.99)))
    tail = high > 20 * max(middle, 1e-9) if middle > 0 else high > 20
    log = bool(tail or high > 100)
    shape = f"median {middle:.3g}, 99% below {high:.3g}"
    if log:
        shape += ": a heavy tail, so log1p" if tail else ": large numbers, so log1p"
    spec = FeatureSpec(name=name, kind="numeric", transform="log1p" if log else "none")
    return FeatureGuess(
        spec, None, confidence, f"{why}; {shape}", "numeric or a code?" if confidence == "guess" else None
    )


def _categorical(profile: Profile, name: str, rows: int) -> FeatureGuess | LeftOut:
    n = len(profile.values)
    if n > 50 and (profile.unique or profile.distinct > 0.5 * n):
        return LeftOut(
            f"an identifier: {profile.distinct:,} values in {n:,} rows, so that nothing can be learned of one",
            "likely",
        )
    total = expected_distinct(profile.codes[profile.codes >= 0], rows)
    if n >= 1000 and profile.distinct > 0.2 * n and total > 0.8 * profile.distinct * rows / n:
        return LeftOut(
            f"an identifier that does not return: {profile.distinct:,} values in {n:,} rows, and new ones all the time",
            "likely",
        )
    confidence: Confidence = "sure"
    why = "texts" if profile.kind == "text" else "true and false"
    if profile.kind == "integer":
        _, confidence, why = _is_quantity(profile)
    spec = FeatureSpec(name=name, buckets=buckets_for(total))
    look = (
        'a code or a quantity? A quantity is better with kind = "numeric"' if confidence == "guess" else None
    )
    return FeatureGuess(spec, None, confidence, f"{why}; {_values(profile.distinct, total)}", look)


def _bag(
    profile: Profile, lists: tuple[list[list[str] | None], str | None], name: str, rows: int
) -> FeatureGuess | LeftOut:
    values, separator = lists
    inner = getattr(profile.column.dtype, "inner", None)
    ids = [v for row in values if row for v in row]
    if not ids:
        return LeftOut("no sampled row has a value")
    if inner is not None and inner.is_temporal():
        return LeftOut("lists of times")
    if inner is not None and inner == pl.Boolean:
        return LeftOut("lists of true and false")
    if (inner is not None and inner.is_float()) or all("." in v for v in ids[:100]):
        fractions = [v for v in ids if not v.replace(".0", "").lstrip("-").isdigit()]
        if len(fractions) > 0.01 * len(ids):
            return LeftOut("lists of numbers with fractions (a vector?): a bag holds ids")
    if any(v is None or v == "None" for row in values if row for v in row):
        return LeftOut("lists that contain null")
    lengths = [len(row) for row in values if row]
    longest = min(50, max(1, math.ceil(float(np.quantile(lengths, 0.95)))))
    codes = np.unique(np.array(ids), return_inverse=True)[1]
    total = expected_distinct(codes, round(rows * len(ids) / max(1, len(values))))
    spec = FeatureSpec(name=name, kind="bag", buckets=buckets_for(total), max_length=longest)
    form = "lists" if separator is None else f"texts with {separator!r} between ids"
    why = f"{form}; {_values(len(set(ids)), total)}; 95% of the lists have at most {longest}"
    return FeatureGuess(spec, separator, "sure" if separator in (None, "|", "^") else "likely", why)


def _values(seen: int, total: int) -> str:
    return (
        f"{seen:,} values"
        if total <= 1.1 * seen
        else f"{seen:,} values in the sample, about {total:,} in the log"
    )


def expected_distinct(codes: np.ndarray, rows: int) -> int:
    """Number of different values in ``rows`` rows, from those of a sample: they grow by a power of the rows (Heaps' law).

    >>> expected_distinct(np.arange(1000) % 10, 1_000_000), expected_distinct(np.arange(1000), 1_000_000)
    (10, 1000000)
    """
    n = len(codes)
    if n < 20:
        return max(1, len(np.unique(codes)))
    chosen = np.random.default_rng(0).permutation(n)[: n // 2]
    whole, half = len(np.unique(codes)), len(np.unique(codes[chosen]))
    exponent = min(1.0, max(0.0, math.log2(whole / half)))
    expected = round(whole * float(max(rows, n) / n) ** exponent)
    return int(max(whole, min(rows, expected)))


def buckets_for(values: int) -> int:
    """Hash buckets: ten for each value, so that about a tenth of the values share one; fewer for very many values.

    >>> buckets_for(3), buckets_for(1200), buckets_for(900_000), buckets_for(10**9)
    (50, 20000, 5000000, 20000000)
    """
    wanted = max(50, values * (10 if values <= 100_000 else 4))
    power = int(10 ** math.floor(math.log10(wanted)))
    rounded: int = next((f * power for f in _ROUND if f * power >= wanted), 10 * power)
    return min(rounded, _MOST_BUCKETS)
