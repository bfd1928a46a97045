"""Where rows to replay come from, by one line of text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.digix import Digix
from ecdctr.replay.sources.ebnerd import EbNerd
from ecdctr.replay.sources.event_files import EventFiles
from ecdctr.replay.sources.kuairand import KuaiRand
from ecdctr.replay.sources.mapped_tables import MappedTables
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.replay.sources.taobao import Taobao
from ecdctr.state.errors import DataError

__all__ = ["KNOWN_FORMS", "Source", "open_source", "parse_options"]

KNOWN_FORMS = """\
  sim                                   the simulator, full size
  sim:days=40,users=2000,seed=1         ... with parameters
  ebnerd:DIR?mapping=A                  EB-NeRD, mapping A or B
  kuairand:DIR  digix:DIR  taobao:DIR   KuaiRand, HUAWEI DIGIX 2022, Taobao display ads
  map:FILE.toml                         any tables, by a mapping file
  events.jsonl  log.csv.gz  log.parquet a file (.jsonl, .ndjson, .csv, .tsv, .parquet)
  DIR  'DIR/*.parquet'                  event files, merged by time
  FILES?domain=ad&window=1h             ... without a column domain; out of order by up to an hour"""


FOLDERS: dict[str, Callable[..., Any]] = {
    "ebnerd": EbNerd,
    "kuairand": KuaiRand,
    "digix": Digix,
    "taobao": Taobao,
    "map": MappedTables,
}
"""Sources that are named by their kind and a folder (or file)."""


@runtime_checkable
class Source(Protocol):
    """A log to be played back.

    A source may also have ``history()`` (natural frames older than the first frame, for TPM alone),
    ``feature_specs()`` (features that its events carry) and ``extra_fields`` (which of
    ``list_id`` and ``oracle`` they carry).
    """

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def frames(self) -> Iterator[pl.DataFrame]:
        """Event frames in event order; may be asked for again."""
        ...

    def count(self) -> int | None:
        """Rows of :meth:`frames`, None if only reading tells."""
        ...


def open_source(text: str, features: Sequence[FeatureSpec] | None = None) -> Source:
    """The source that a line of text names.

    Parameters
    ----------
    text
        One of the forms in ``KNOWN_FORMS``.
    features
        The configured features: they say how the columns of CSV files are read.

    Raises
    ------
    DataError
        Names the source, what is wrong with it, and the forms that are known.

    Examples
    --------
    >>> open_source("sim:days=8,live_from=6,natural_per_day=200,ads_per_day=10").count()
    420
    """
    kind, _, rest = text.partition(":")
    if kind == "sim":
        return _build(text, Simulator, (), dict(_pairs(text, rest, ",")))
    path, found, options = _split_options(rest if kind in FOLDERS else text)
    values = dict(_pairs(text, options, "&")) if found else {}
    if kind in FOLDERS:
        if not path:
            raise _error(text, f"a {'file' if kind == 'map' else 'folder'} is needed behind {kind}:")
        return _build(text, FOLDERS[kind], (Path(path).expanduser(),), values)
    if not path:
        raise _error(text, "nothing is named")
    try:
        return _build(text, EventFiles, (str(Path(path).expanduser()),), values, {"features": features})
    except DataError as e:
        raise e if "no such file" not in str(e) else _error(text, "no such file or folder") from e


def _split_options(text: str) -> tuple[str, str, str]:
    # A glob may hold a ?, too: options begin at a ? that is followed by name=.
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
            raise _error(text, f"{name}={value!r} is no whole number")
        options[name] = int(value) if whole else value
    source: Source = make(*positional, **options, **(fixed or {}))
    return source


def _error(text: str, why: str) -> DataError:
    return DataError(f"source {text!r}: {why}. Known forms:\n{KNOWN_FORMS}")
