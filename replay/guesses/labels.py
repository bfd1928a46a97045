"""Which column says whether an impression was clicked: a column of 0 and 1, an action, counts, or a list of the clicked items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ecdctr.events.text_lists import list_of_text
from ecdctr.replay.guesses.findings import Confidence, Found
from ecdctr.replay.guesses.leaks import only_with_clicks
from ecdctr.replay.guesses.names import hint, says
from ecdctr.replay.guesses.profiles import Profile
from ecdctr.replay.sources import CountsMap, ListsMap, label_expression
from ecdctr.state.errors import DataError

__all__ = ["LabelReading", "as_lists", "by_condition", "click_values", "find_label", "is_condition"]

_CLICK_WORDS = "click clicked clk open opened tap clic klick geklickt dianji 点击"
_VIEW_WORDS = (
    "view impression imp impr show shown seen skip none no_click noclick ignore ignored not_clicked nothing visto gesehen vista "
    "baoguang 曝光"
)
_CLICK_VALUES, _VIEW_VALUES = frozenset(_CLICK_WORDS.split()), frozenset(_VIEW_WORDS.split())


@dataclass(eq=False)
class LabelReading:
    """How the label is read.

    Attributes
    ----------
    label
        ``label`` of the mapping: a column or a condition; None with an expansion.
    expansion
        How a row becomes several impressions.
    used
        Columns that are read for it.
    clicked
        0 and 1 of each sampled row, NaN where unknown; None with an expansion.
    rows_each
        Mean number of impressions of a row.
    """

    label: str | None
    expansion: ListsMap | CountsMap | None
    used: list[str]
    clicked: np.ndarray | None = None
    rows_each: float = 1.0


def find_label(profiles: Sequence[Profile], found: Found, wanted: str | None = None) -> LabelReading | None:
    """The label of a table; None if nothing says which impressions were clicked.

    1. Lists: a column whose values are among those of a column of lists in the same row, or a list of 0 and 1 beside it.
    2. A column of 0 and 1, or words for them, with a name for a click; or with the values "click" and "view".
    3. Counts of views and clicks, none of which exceeds the other.
    4. Without a name: the only column of 0 and 1 with a mean below .5 whose name does not say ads or natural content. Of several,
       the only one that another column bears out, because it is filled, or not 0, only where this one is 1 (dwell time, orders).
    """
    chosen = [p for p in profiles if wanted in (None, p.name)]
    return (
        _lists(profiles, found)
        or _zero_one(chosen, found, named=True)
        or _action(chosen, found)
        or _counts(profiles, found)
        or _zero_one(chosen, found, named=False, sure=wanted is not None, all_columns=profiles)
    )


def is_condition(text: str) -> bool:
    """Whether a text is a condition on a column, as ``dwell > 10``."""
    return bool(re.search(r"[<>=!]| in \[", text))


def by_condition(frame: pl.DataFrame, text: str, where: str, found: Found) -> LabelReading:
    """The label by a condition that the user of the command has given.

    Raises
    ------
    DataError
        It is no condition, or reads a column that the table does not have.
    """
    try:
        expression = label_expression(text)
    except ValueError as error:
        raise DataError(str(error)) from error
    used = expression.meta.root_names()
    lacking = [name for name in used if name not in frame.columns]
    if lacking:
        raise DataError(
            f"{where} has no column {lacking[0]!r}, which --use label={text} reads; it has {', '.join(frame.columns)}"
        )
    clicked = frame.select(expression).to_series().fill_null(np.nan).to_numpy().astype(np.float64)
    found.add(
        "label", ", ".join(used), f"label = {text}", "sure", f"you named it; {np.nanmean(clicked):.1%} are 1"
    )
    return LabelReading(text, None, used, clicked)


def _zero_one(
    profiles: Sequence[Profile],
    found: Found,
    *,
    named: bool,
    sure: bool = False,
    all_columns: Sequence[Profile] = (),
) -> LabelReading | None:
    candidates: list[tuple[float, Profile, np.ndarray]] = []
    for profile in profiles:
        values = profile.zero_one
        signs = (
            profile.kind == "integer"
            and not re.search(r"\s", profile.name)
            and set(np.unique(profile.known)) == {-1.0, 1.0}
        )
        if signs:
            values = (profile.numbers > 0).astype(float)
        if values is None or profile.distinct < 1:
            continue
        score = hint("click", profile.name)
        if says("after", profile.name) and score < 1:
            score -= 0.25
        if named != (score > 0) and not sure:
            continue
        if not named and not sure and (hint("ad", profile.name) or hint("natural", profile.name)):
            continue
        candidates.append((score - profile.nulls, profile, values))
    shown_by = ""
    if not named and not sure and len(candidates) > 1:
        borne_out = [(c, other) for c in candidates if (other := _only_where_one(c[1], c[2], all_columns))]
        candidates = [c for c, _ in borne_out]
        shown_by = f"; {borne_out[0][1]} is filled only in rows with 1" if borne_out else ""
    if not candidates or (not named and len(candidates) > 1 and not sure):
        return None
    candidates.sort(key=lambda c: -c[0])
    score, profile, values = candidates[0]
    mean = float(np.nanmean(values))
    if not named and not sure and not (0 < mean < 0.5 and profile.nulls == 0):
        return None
    confidence: Confidence = "sure" if score > 0.8 and 0 < mean < 0.5 else "likely" if named else "guess"
    look = None
    if mean == 1:
        look = "every row is a click: models need rows that were shown and not clicked"
    elif mean == 0:
        look = "no sampled row is a click"
    elif mean >= 0.5:
        look = f"{mean:.0%} are clicks: most logs have fewer; were rows without a click left out?"
    elif score <= 0.5:
        look = f"{profile.name} need not be a click"

    text = (
        f"0 and 1 in every row, {mean:.1%} are 1"
        if profile.nulls == 0
        else f"0 and 1 in {1 - profile.nulls:.0%} of the rows, {mean:.1%} are 1"
    )
    text += shown_by
    if not named and not sure:
        look = f"no name says that {profile.name} is a click: it is taken because of its values"
    negative = profile.kind == "integer" and float(profile.known.min()) < 0
    label = f"{profile.name} > 0" if negative else profile.name
    found.add("label", profile.name, f"label = {label}", confidence, text, look)
    return LabelReading(label, None, [profile.name], values)


def _only_where_one(profile: Profile, values: np.ndarray, columns: Sequence[Profile]) -> str | None:
    """The first column of other values that is filled, or not 0, only in rows in which a column of 0 and 1 is 1."""
    for other in columns:
        if other.name != profile.name and other.zero_one is None and only_with_clicks(other, values):
            return other.name
    return None


def click_values(profile: Profile) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Of a column of actions, the values that mean an impression and those that mean a click."""
    if profile.kind != "text" or profile.distinct > 12:
        return None
    values = [str(v) for v in profile.values.unique(maintain_order=True)]
    clicks = tuple(v for v in values if v.lower() in _CLICK_VALUES)
    views = tuple(v for v in values if v.lower() in _VIEW_VALUES)
    return (views, clicks) if views and clicks else None


def _action(profiles: Sequence[Profile], found: Found) -> LabelReading | None:
    for profile in profiles:
        values = click_values(profile)
        if values is None or re.search(r"\s", profile.name):
            continue
        views, clicks = values
        quoted = ", ".join(f'"{v}"' for v in clicks)
        hits = profile.column.is_in(list(clicks)).cast(pl.Float64).fill_null(np.nan).to_numpy()
        found.add(
            "label",
            profile.name,
            f"label = {profile.name} in [{quoted}]",
            "likely",
            f"its values are {', '.join((*views, *clicks)[:6])}; {np.nanmean(hits):.1%} are a click",
            "if a click is a row of its own beside that of its view, both need a key to be joined (docs/join.md): here each row is an impression",
        )
        return LabelReading(f"{profile.name} in [{quoted}]", None, [profile.name], hits)
    return None


def _counts(profiles: Sequence[Profile], found: Found) -> LabelReading | None:
    whole = [
        p for p in profiles if p.kind == "integer" and p.nulls < 0.5 and len(p.known) and p.known.min() >= 0
    ]
    clicks = [p for p in whole if hint("click", p.name) == 1.0]
    views = [p for p in whole if hint("views", p.name) == 1.0]
    for c in clicks:
        for v in views:
            both = np.isfinite(c.numbers) & np.isfinite(v.numbers)
            if c is v or not both.any() or v.known.max() < 2:
                continue
            kept = float((c.numbers[both] <= v.numbers[both]).mean())
            if kept < 0.95 or v.known.sum() <= c.known.sum():
                continue
            rate = c.known.sum() / v.known.sum()
            look = (
                None
                if kept == 1
                else f"in {1 - kept:.1%} of the rows there are more clicks than views: these rows are left out"
            )
            found.add(
                "label",
                f"{v.name}, {c.name}",
                "counts of views and clicks: one impression for each view",
                "sure",
                f"{c.name} never exceeds {v.name}; {rate:.1%} of the views are clicks"
                if kept == 1
                else f"{c.name} exceeds {v.name} in few rows",
                look,
            )
            return LabelReading(
                None,
                CountsMap(views=v.name, clicks=c.name),
                [v.name, c.name],
                rows_each=float(v.known.mean()),
            )
    return None


def _lists(profiles: Sequence[Profile], found: Found) -> LabelReading | None:
    lists = {p.name: read for p in profiles if (read := as_lists(p)) is not None}
    for name, (items, separator) in lists.items():
        suffix = _suffix(items)
        if suffix is not None and (hint("item", name) or hint("views", name) or hint("list", name)):
            share = np.mean([item[-1] == "1" for row in items if row for item in row])
            found.add(
                "label",
                name,
                f"a list of items, each with its label after {suffix!r}",
                "sure",
                f"every item ends with {suffix}0 or {suffix}1; {share:.1%} are 1",
            )
            expansion = ListsMap(items=name, label_after=suffix, separator=separator)
            return LabelReading(None, expansion, [name], rows_each=_mean_length(items))
    best: tuple[float, ListsMap, list[str], str] | None = None
    for name, (items, separator) in lists.items():
        if _mean_length(items) < 1.2 or _is_zero_one(items):
            continue
        for other in profiles:
            if other.name == name:
                continue
            found_in = _clicked_in(items, lists.get(other.name), other)
            if found_in is None:
                continue
            inside, kind, text = found_in
            rank = inside + hint("click", other.name) + 0.5 * max(hint("views", name), hint("item", name))
            if best is None or rank > best[0]:
                expansion = ListsMap(items=name, separator=separator, **{kind: other.name})  # type: ignore[arg-type]
                best = (rank, expansion, [name, other.name], text)
    if best is None or best[0] < 1.5:
        return None
    _, expansion, used, text = best
    along = _along(expansion, lists, used)
    if along:
        expansion = expansion.model_copy(update={"along": tuple(along)})
        text += f"; {', '.join(along)} {'has' if len(along) == 1 else 'have'} one value for each item"
    found.add(
        "label",
        ", ".join(used),
        "a list of shown items, and which of them were clicked: one impression for each item",
        "sure",
        text,
        "the length of a list may reveal its click; it is no feature",
    )
    return LabelReading(None, expansion, used, rows_each=_mean_length(lists[used[0]][0]))


def _along(
    expansion: ListsMap, lists: dict[str, tuple[list[list[str] | None], str | None]], used: Sequence[str]
) -> list[str]:
    """Columns whose lists are always as long as those of the items."""
    items, separator = lists[expansion.items]
    lengths = [len(row or ()) for row in items]
    if len(set(lengths)) < 3:
        return []
    return [
        name
        for name, (values, sign) in lists.items()
        if name not in used
        and sign == separator
        and all(row is None or len(row) == n for row, n in zip(values, lengths, strict=True))
        and sum(row is not None for row in values) > 0.5 * len(values)
    ]


def as_lists(profile: Profile) -> tuple[list[list[str] | None], str | None] | None:
    """The values as lists of texts and the separator of lists in a text; None if it has no lists."""
    if profile.kind == "list":
        return [None if v is None else [str(e) for e in v] for v in profile.column.to_list()], None
    if profile.kind != "text":
        return None
    values = profile.column.to_list()
    head = [v for v in values if v is not None][:400]
    if all(v.strip()[:1] in "[({" and v.strip()[-1:] in "])}" for v in head if v.strip()):
        read = [None if v is None else list_of_text(v) for v in values]
        return (read, None) if sum(r is None for r in read) <= sum(v is None for v in values) else None
    for separator in ("|", "^", ";", ",", " "):
        many = sum(separator in v for v in head)
        if many < 0.3 * len(head):
            continue
        parts = [v.split(separator) for v in head]
        words = [w for row in parts for w in row]
        # Tags repeat in other rows and have no spaces; sentences have many words, of which most are rare.
        if separator == " " and (max(map(len, words)) > 40 or not _codes(words)):
            continue
        if any(" " in w.strip() and len(w) > 30 for w in words):
            continue
        return [None if v is None or not v else v.split(separator) for v in values], separator
    return None


def _codes(words: list[str]) -> bool:
    return sum(any(c.isdigit() for c in w) for w in words) >= 0.9 * len(words)


def _suffix(items: list[list[str] | None]) -> str | None:
    ends = {item[-2:] for row in items if row for item in row}
    for sign in ("-", ":", "_", "="):
        if ends == {sign + "0", sign + "1"}:
            return sign
    return None


def _is_zero_one(lists: list[list[str] | None]) -> bool:
    values = {v for row in lists if row for v in row}
    return bool(values) and values <= {"0", "1", "0.0", "1.0", "True", "False", "true", "false"}


def _mean_length(lists: list[list[str] | None]) -> float:
    return float(np.mean([len(row or ()) for row in lists])) if lists else 0.0


def _clicked_in(
    items: list[list[str] | None], other: tuple[list[list[str] | None], str | None] | None, profile: Profile
) -> tuple[float, str, str] | None:
    """Whether a column names the clicked items of the lists: share, key of the mapping, evidence."""
    clicked = other[0] if other is not None else None
    if clicked is None:
        if profile.kind not in ("integer", "text"):
            return None
        clicked = [None if v is None else [str(v)] for v in profile.column.to_list()]
    pairs = [(row or [], marks or []) for row, marks in zip(items, clicked, strict=True)]
    if _is_zero_one(clicked):
        same = float(np.mean([len(row) == len(marks) for row, marks in pairs]))
        return (
            (
                1.0,
                "labels",
                f"{profile.name} is a list of 0 and 1, as long as the items in {same:.0%} of the rows",
            )
            if same >= 0.99
            else None
        )
    marked = [(row, marks) for row, marks in pairs if marks]
    if len(marked) < 3:
        return None
    inside = np.mean([set(marks) <= set(row) for row, marks in marked])
    fewer = float(np.mean([len(marks) < len(row) for row, marks in marked if len(row) > 1] or [False]))
    if inside < 0.9 or fewer < 0.7:
        return None
    return (
        float(inside),
        "clicked",
        f"the values of {profile.name} are among the items in {inside:.0%} of the rows",
    )
