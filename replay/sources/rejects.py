"""``Rejects``: how many rows of a log were left out, by reason, each with an example that can be found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ecdctr.state.errors import RowsRejectedError

__all__ = ["RejectedRows", "Rejects"]

MAX_CAUSES = 20


class RejectedRows(TypedDict):
    """Rows that were left out for one cause.

    Attributes
    ----------
    reason
        Key of ``REASONS`` of the decoder.
    rows
        Their number.
    detail
        What was wrong with the first of them: the field, its value, what is expected.
    where
        The first of them: file and row, or topic, partition and offset.
    """

    reason: str
    rows: int
    detail: str
    where: str


@dataclass
class _Cause:
    rows: int
    detail: str
    where: str


class Rejects(Counter[str]):
    """Number of rejected rows by reason; ``causes()`` tells them apart by field, with an example.

    Attributes
    ----------
    accepted
        Rows that were accepted so far.
    differs
        Rows that were read from a file although a live message with these values is refused, by the cause.
    remarks
        Other sentences about the log that its reader should know.

    Examples
    --------
    >>> rejects = Rejects()
    >>> rejects.note("type", "price is \\"x\\", expected a number", "log.jsonl, line 7")
    >>> rejects.note("type", "price is \\"y\\", expected a number", "log.jsonl, line 9")
    >>> rejects.sentences()
    ['2 rows, type: price is "x", expected a number (log.jsonl, line 7)']
    """

    def __init__(self) -> None:
        super().__init__()
        self._causes: dict[tuple[str, str], _Cause] = {}
        self.accepted = 0
        self.differs: Counter[str] = Counter()
        self.remarks: list[str] = []

    def clear(self) -> None:
        """Start at 0 again."""
        super().clear()
        self._causes.clear()
        self.accepted = 0
        self.differs.clear()
        self.remarks.clear()

    def note(self, reason: str, detail: str, where: str, rows: int = 1) -> None:
        """Count rows that were rejected for the same reason; ``detail`` and ``where`` are those of the first."""
        self[reason] += rows
        key = (reason, re.split(r" is | are | contains | has ", detail, maxsplit=1)[0])
        if key not in self._causes and len(self._causes) >= MAX_CAUSES:
            key = (reason, "")
        cause = self._causes.get(key)
        if cause is None:
            self._causes[key] = _Cause(rows, detail, where)
        else:
            cause.rows += rows

    def remark(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def causes(self) -> list[RejectedRows]:
        """The causes, most rows first."""
        found: list[RejectedRows] = [
            {"reason": reason, "rows": c.rows, "detail": c.detail, "where": c.where}
            for (reason, _), c in self._causes.items()
        ]
        return sorted(found, key=lambda c: -c["rows"])

    def sentences(self) -> list[str]:
        """One line for each cause."""
        return [
            f"{c['rows']:,} {'row' if c['rows'] == 1 else 'rows'}, {c['reason']}: {c['detail']} ({c['where']})"
            for c in self.causes()
        ]

    def notices(self, lost: int = 0) -> list[str]:
        """What is printed at the end of a command: rows that were left out, and what else should be known.

        ``lost``: rows that could not be learned.
        """
        out = [f"left out: {line}" for line in self.sentences()]
        if lost:
            out.append(
                f"not learned: {lost:,} rows, because the training loss was not finite with them; they are in no figure"
            )
        out += [f"note: {sentence}" for sentence in self.remarks]
        if self.differs:
            causes = ", ".join(f"{cause} ({n:,} rows)" for cause, n in sorted(self.differs.items()))
            out.append(f"note: read from files, but refused in a live message: {causes}")
        return out

    def check(self, name: str, *, lost: int = 0) -> None:
        """Raise an error if no row, or at most half of the rows, could be used.

        Parameters
        ----------
        name
            Name of the log.
        lost
            Accepted rows that could not be learned.

        Raises
        ------
        RowsRejectedError
            The message names the field, an example and the way out.
        """
        rejected, accepted = sum(self.values()), self.accepted
        if not accepted and not rejected:
            raise RowsRejectedError(f"{name} contains no rows")
        if accepted - lost > rejected + lost:
            return
        causes = self.causes()
        if not causes:
            raise RowsRejectedError(
                f"{name}: {lost:,} of {accepted:,} rows could not be learned, because the training loss was not finite"
            )
        first = causes[0]
        share = (
            "every row was" if not accepted else f"{rejected + lost:,} of {accepted + rejected:,} rows were"
        )
        raise RowsRejectedError(
            f"{name}: {share} left out; {first['rows']:,} because {first['detail']} ({first['where']}). {way_out(causes)}"
        )


def way_out(causes: Sequence[RejectedRows]) -> str:
    """What can be done about the first cause."""
    first = causes[0]
    detail = first["detail"]
    for unit, short in (("microseconds", "us"), ("nanoseconds", "ns"), ("seconds", "s")):
        if f"looks like {unit}" in detail:
            return f'Read the files by a mapping file (map:FILE.toml) with ts = {{column = "ts", unit = "{short}"}}'
    if "cannot be read from" in detail:
        return "Correct the mapping file"
    if detail.endswith("after the rows beside it"):
        return "If such times are right, raise events.max_ahead"
    if detail.startswith("ts is "):
        return (
            'Read the files by a mapping file (map:FILE.toml) that names the format, as ts = {column = "ts", '
            'format = "%m/%d/%Y %I:%M:%S %p", zone = "UTC"}'
        )
    if first["reason"] == "label" or detail.startswith("label "):
        return "Read the files by a mapping file (map:FILE.toml) with a condition, as label = \"action in ['click']\""
    if first["reason"] == "missing":
        return "Write null where a value is missing, or remove the feature from [[features]]"
    return "docs/data.md lists what is accepted"
