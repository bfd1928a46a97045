"""Which columns name the user, the item, the impression list and the event."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecdctr.replay.guesses.findings import Confidence, Found
from ecdctr.replay.guesses.names import hint, says, tokens
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.guesses.times import TimeReading

__all__ = ["Identities", "find_identities"]

_FEW = 8
_LIST_SPAN_MS = 60_000
_MOST_COLUMNS = 80


@dataclass(eq=False)
class Identities:
    """Names of the columns; None if there is none."""

    user: str | None
    item: str | None
    list_id: str | None
    event_id: str | None
    also: list[str]
    """Columns that name the user or the item as well."""


def find_identities(
    profiles: Sequence[Profile],
    time: TimeReading,
    found: Found,
    *,
    item: str | None,
    wanted: Mapping[str, str],
    expanded: bool,
    later: Collection[str] = (),
    key: str | None = None,
) -> Identities:
    """The identities of a table.

    An identifier has many values, and each in several rows. Names say whose it is; without one, the item is the column that
    determines most others (an item's price and category are the same in all of its rows), and the user an identifier
    that neither determines the item nor is determined by it.

    Parameters
    ----------
    profiles
        Columns that are not the time or the label.
    item
        The item's column, if it is known from lists.
    wanted
        ``{"user": column}``: given by the user of the command.
    expanded
        Whether a row is several impressions.
    key
        Column that joins clicks to impressions: it is neither a user nor an item.
    later
        Columns that are known only after the impression: they identify nothing that was shown.
    """
    ids = [p for p in profiles if p.whole and p.distinct > 1 and p.name not in (item, key)][:_MOST_COLUMNS]
    by_name = {p.name: p for p in profiles}
    item_id = by_name[wanted["item"]] if "item" in wanted else None
    if item_id is None and item is None:
        item_id = _named(ids, "item", found)
    others = [p for p in ids if item_id is None or p.name != item_id.name]
    user = by_name[wanted["user"]] if "user" in wanted else _named(others, "user", found)
    for role, profile in (("user", user), ("item", item_id)):
        if role in wanted and profile is not None:
            found.add(role, profile.name, f"{role}_id", "sure", "you named it", None)
    if item_id is None and item is None:
        candidates = [p for p in ids if p is not user and p.name not in later]
        below = [
            p
            for p in profiles
            if p is not user and p.name not in later and p.kind not in ("list", "other", "time")
        ]
        item_id = _by_content_item(candidates, below, found)
    if user is None:
        user = _by_content_user([p for p in ids if p is not item_id and p.name not in later], item_id, found)
    rest = [p for p in ids if p not in (user, item_id)]
    lists = _list(rest, user, item_id, time, found, expanded=expanded)
    event = next((p for p in rest if p is not lists and p.unique and p.nulls == 0 and _is_key(p)), None)
    if event is not None and not expanded:
        found.add(
            "event",
            event.name,
            "event_id",
            "sure",
            f"{event.distinct:,} values in {event.n:,} rows: one each",
            None,
        )
    also: list[str] = []
    for p in rest:
        twin = next(
            (q for q in (user, item_id) if q is not None and p not in (lists, event) and _same(p, q)), None
        )
        if twin is not None and (hint("event", p.name) or hint("user", p.name) or hint("item", p.name)):
            also.append(p.name)
            found.add(
                "left out",
                p.name,
                "no feature",
                "sure",
                f"its values are in the same rows as those of {twin.name}",
            )
    return Identities(
        user.name if user else None,
        item_id.name if item_id else None,
        lists.name if lists else None,
        event.name if event else None,
        also,
    )


def _is_key(profile: Profile) -> bool:
    return bool(hint("event", profile.name) or hint("list", profile.name)) or profile.kind == "text"


def _same(a: Profile, b: Profile) -> bool:
    """Whether two columns tell the same rows apart."""
    return (
        a.kind not in ("list", "other")
        and b.kind not in ("list", "other")
        and a.distinct == b.distinct
        and a.distinct >= _FEW
        and not a.unique
        and a.determines(b)
        and b.determines(a)
    )


def _named(ids: Sequence[Profile], role: str, found: Found) -> Profile | None:
    scored = sorted(((_score(p, role), p) for p in ids), key=lambda pair: -pair[0])
    if not scored or scored[0][0] <= 0.3:
        return None
    best = scored[0][1]
    named = hint(role, best.name)
    values = f"{best.distinct:,} values in {len(best.values):,} rows"
    sure: Confidence = "sure" if named == 1.0 and best.distinct >= _FEW and best.repeats > 1.05 else "likely"
    look = None
    if best.unique and best.n > 50:
        look = f"nearly every row has a {role} of its own: is {best.name} the id of the event?"
    elif best.top[1] > 0.3:
        look = f"{best.top[0]!r} stands in {best.top[1]:.0%} of the rows: does it mean that the {role} is unknown?"
    elif named < 1:
        look = f"{best.name} only stands for the {role}"
    if best.nulls > 0.01:
        look = f"{best.nulls:.1%} of the rows have no {role}: they are left out"
    runner = next((p.name for s, p in scored[1:] if s > 0.3), None)
    why = f"its name says so; {values}" + (f"; rather than {runner}" if runner else "")
    found.add(role, best.name, f"{role}_id", sure, why, look)
    return best


def _score(profile: Profile, role: str) -> float:
    named = hint(role, profile.name)
    if not named or says("after", profile.name) or profile.zero_one is not None:
        return 0.0
    parts = set(tokens(profile.name))
    score = named
    if (
        {"id", "uid", "key", "nr", "number", "hash", "code", "sku", "no"} & parts
        or len(parts) == 1
        or profile.name.lower().endswith("id")
    ):
        score += 0.5
    if {
        "pos",
        "position",
        "type",
        "category",
        "cat",
        "count",
        "rank",
        "name",
        "title",
        "tipo",
        "typ",
        "leixing",
        "price",
        "age",
        "size",
        "gender",
    } & parts:
        score -= 1.0
    score -= 0.4 * (profile.distinct < _FEW)
    score -= 0.6 * (profile.unique and profile.n > 50)
    score -= 0.5 * (profile.top[1] > 0.5)
    score -= profile.nulls
    return score


def _by_content_item(ids: Sequence[Profile], columns: Sequence[Profile], found: Found) -> Profile | None:
    """The identifier that determines most other columns, as price and category; of several, the one with the most values."""
    candidates = [
        p
        for p in ids
        if p.repeats > 1.5
        and p.distinct >= _FEW
        and p.nulls < 0.2
        and not hint("user", p.name)
        and not says("after", p.name)
    ]
    ranked: list[tuple[int, int, Profile]] = []
    for p in candidates:
        below = [
            q
            for q in columns
            if q is not p and 1 < q.distinct <= p.distinct and q.repeats > 1.5 and p.determines(q)
        ]
        ranked.append((len(below), p.distinct, p))
    if not ranked:
        return None
    count, _, best = max(ranked, key=lambda r: r[:2])
    if not count:
        return None
    found.add(
        "item",
        best.name,
        "item_id",
        "guess",
        f"no name says it; its {best.distinct:,} values determine {count} other columns, more than those of any other",
        "is it the item or the ad that was shown?",
    )
    return best


def _by_content_user(ids: Sequence[Profile], item: Profile | None, found: Found) -> Profile | None:
    candidates = [
        p for p in ids
        if p.repeats > 1.2 and p.distinct >= _FEW and p.nulls < 0.2 and not says("after", p.name)
        and (item is None or not (item.determines(p) or p.determines(item)))
    ]  # fmt: skip
    if not candidates:
        return None
    best = max(candidates, key=lambda p: p.distinct)
    found.add(
        "user",
        best.name,
        "user_id",
        "guess",
        f"no name says it; of the columns that are independent of the item it has the most values ({best.distinct:,})",
        "does it tell people apart?",
    )
    return best


def _list(
    ids: Sequence[Profile],
    user: Profile | None,
    item: Profile | None,
    time: TimeReading,
    found: Found,
    *,
    expanded: bool,
) -> Profile | None:
    """A column whose rows have one user and one moment, and different items."""
    if user is None:
        return None
    if expanded:
        best = next((p for p in ids if p.unique and hint("list", p.name)), None)
        if best is not None:
            found.add(
                "list", best.name, "list_id", "sure", "each row is a list, and each has its own value", None
            )
        return best
    for p in sorted(ids, key=lambda p: -hint("list", p.name)):
        if (
            not 1.3 <= p.repeats <= 200
            or p.nulls > 0.5
            or p.zero_one is not None
            or not p.determines(user)
            or (item is not None and p.determines(item))
        ):
            continue
        if _spans(p, time) <= _LIST_SPAN_MS and p.distinct > user.distinct:
            named = hint("list", p.name)
            found.add(
                "list",
                p.name,
                "list_id",
                "sure" if named else "likely",
                f"its rows have one user and one moment; {p.repeats:.1f} rows each",
                None,
            )
            return p
    return None


def _spans(profile: Profile, time: TimeReading) -> float:
    """The 95th percentile of the time that the rows of one value cover, ms."""
    codes, ms = profile.codes, time.ms.fill_null(0).to_numpy()
    ok = (codes >= 0) & time.ms.is_not_null().to_numpy()
    codes, ms = codes[ok], ms[ok]
    low = np.full(int(codes.max(initial=0)) + 1, np.iinfo(np.int64).max)
    high = np.full_like(low, np.iinfo(np.int64).min)
    np.minimum.at(low, codes, ms)
    np.maximum.at(high, codes, ms)
    used = high >= low
    return float(np.quantile((high - low)[used], 0.95)) if used.any() else float("inf")
