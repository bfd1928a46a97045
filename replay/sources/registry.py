"""Sources of rows to replay, opened by a line of text such as ``ebnerd:DIR?mapping=A``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from ecdctr.events.join import JoinSettings
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.datasets import Digix, EbNerd, KuaiRand, Taobao
from ecdctr.replay.sources.event_files import EventFiles
from ecdctr.replay.sources.mapped_tables import MappedTables
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.state.errors import DataError

__all__ = ["KNOWN_FORMS", "Source", "open_source", "parse_options"]


@dataclass(frozen=True)
class Kind:
    """A kind of source that is named as ``kind:PATH?option=value``.

    Parameters
    ----------
    make
        ``make(path, **options)`` gives the :class:`Source`; options are converted to the annotated types.
    form, title
        How the kind is written, and what it reads; both are part of :data:`KNOWN_FORMS`.
    reads_file
        Whether the path is a file; otherwise it is a folder.
    """

    make: Callable[..., Any]
    form: str
    title: str
    reads_file: bool = False


KINDS: dict[str, Kind] = {
    "ebnerd": Kind(EbNerd, "ebnerd:DIR?mapping=A", "EB-NeRD, mapping A or B"),
    "kuairand": Kind(KuaiRand, "kuairand:DIR", "KuaiRand"),
    "digix": Kind(Digix, "digix:DIR", "HUAWEI DIGIX 2022"),
    "taobao": Kind(Taobao, "taobao:DIR", "Taobao display ads"),
    "map": Kind(MappedTables, "map:FILE.toml", "any tables, by a mapping file", reads_file=True),
}
"""Sources that are named by their kind and a folder or file."""

_FORMS = (
    ("sim", "the simulator, full size"),
    ("sim:days=40,users=2000,seed=1", "the simulator with parameters"),
    *((kind.form, kind.title) for kind in KINDS.values()),
    ("events.jsonl  log.csv.gz  log.parquet", "a file (.jsonl, .ndjson, .csv, .tsv, .parquet)"),
    ("DIR  'DIR/*.parquet'", "event files, merged by time"),
    ("FILES?domain=ad&window=1h", "without a column domain; out of order by up to an hour"),
)

KNOWN_FORMS = "\n".join(f"  {form:<38}{title}" for form, title in _FORMS)
"""Every form of a source's text, one a line, for messages."""


@runtime_checkable
class Source(Protocol):
    """A log to replay.

    A source may also have ``history()`` (natural frames older than the first frame, for TPM only),
    ``feature_specs()`` (the features of its events) and ``extra_fields`` (which of ``list_id`` and ``oracle`` its
    events have).
    """

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames in event order; each call starts from the first frame.

        Columns as the fields of an event: ``event_id`` (text), ``ts`` (ms since the epoch, integer), ``user_id`` and
        ``item_id`` (text or integer), ``label`` (0 or 1), ``domain`` ("natural" or "ad"), and one column for each
        configured feature. Rows that lack a column are rejected, as events are that lack a field.
        """
        ...

    def count(self) -> int | None:
        """Rows of :meth:`frames`; None if the number is known only after reading."""
        ...


def open_source(
    text: str, features: Sequence[FeatureSpec] | None = None, join: JoinSettings | None = None
) -> Source:
    """Open the source that a line of text names.

    Parameters
    ----------
    text
        One of the forms in ``KNOWN_FORMS``.
    features
        The configured features; they determine the types of the columns of CSV files.
    join
        How impressions and clicks are joined that a mapping file describes apart; by default as ``JoinSettings()``.

    Raises
    ------
    DataError
        Names the source, the problem, and the known forms.

    Examples
    --------
    >>> open_source("sim:days=8,live_from=6,natural_per_day=200,ads_per_day=10").count()
    420
    """
    kind, _, rest = text.partition(":")
    if kind == "sim":
        return _build(text, Simulator, (), dict(_pairs(text, rest, ",")))
    path, found, options = _split_options(rest if kind in KINDS else text)
    values = dict(_pairs(text, options, "&")) if found else {}
    if kind in KINDS:
        if not path:
            raise _error(text, f"a {'file' if KINDS[kind].reads_file else 'folder'} is needed after {kind}:")
        fixed = {"join": join} if kind == "map" else None
        return _build(text, KINDS[kind].make, (Path(path).expanduser(),), values, fixed)
    if not path:
        raise _error(text, "nothing is named")
    try:
        return _build(text, EventFiles, (str(Path(path).expanduser()),), values, {"features": features})
    except DataError as e:
        raise e if "no such file" not in str(e) else _error(text, "no such file or folder") from e


def _split_options(text: str) -> tuple[str, str, str]:
    # A glob may contain a ?: options begin at a ? that is followed by name=.
    found = re.search(r"\?(?=[a-z_]+=[^/]*$)", text)
    return (text[: found.start()], "?", text[found.end() :]) if found else (text, "", "")


def parse_options(text: str, options: str, separator: str, allowed: Sequence[str]) -> dict[str, str]:
    """``name=value`` pairs of a source's text, each name one of ``allowed``."""
    values = dict(_pairs(text, options, separator))
    for name in values:
        if name not in allowed:
            raise _error(text, f"there is no option {name!r}; there are {', '.join(allowed)}")
    return values


def _pairs(text: str, options: str, separator: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, options.split(separator)):
        name, equals, value = part.partition("=")
        if not equals:
            raise _error(text, f"{part!r} is not of the form name=value")
        yield name.strip(), value.strip()


def _build(
    text: str,
    make: Callable[..., Any],
    positional: tuple[Any, ...],
    values: dict[str, str],
    fixed: dict[str, Any] | None = None,
) -> Source:
    """Call ``make`` with the options, each converted to the type that the parameter is annotated with."""
    parameters = inspect.signature(make).parameters
    allowed = [n for n in list(parameters)[len(positional) :] if n not in (fixed or {})]
    options: dict[str, Any] = {}
    for name, value in values.items():
        if name not in allowed:
            raise _error(text, f"there is no option {name!r}; there are {', '.join(allowed) or 'none'}")
        whole = "int" in str(parameters[name].annotation)
        if whole and not re.fullmatch(r"-?\d[\d_]*", value):
            raise _error(text, f"{name}={value!r} is not an integer")
        options[name] = int(value) if whole else value
    source: Source = make(*positional, **options, **(fixed or {}))
    return source


def _error(text: str, why: str) -> DataError:
    return DataError(f"source {text!r}: {why}. Known forms:\n{KNOWN_FORMS}")
