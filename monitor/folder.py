"""``MonitorFolder``: the stored state of a monitor, so that alerts are neither lost nor raised again after a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ecdctr.events.schema import FeatureSchema
from ecdctr.monitor.drift import Reference
from ecdctr.state.errors import EcdctrError
from ecdctr.state.files import json_with_checksum, read_json_of_any_version, write_atomic
from ecdctr.state.probes import ProbeStore

__all__ = ["MonitorFolder"]

log = logging.getLogger("ecdctr.monitor")

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")
FIGURES = "figures"
FORMAT = 1
"""Version of the format of ``alerts.json``."""


class MonitorFolder:
    """Files of a monitor. Each is written to a temporary file and renamed, so ``kill -9`` leaves the old or the new one.

    ==================  ===============================================================  =============================
    ``alerts.json``     raised and undelivered alerts, marks                             at each alert
    ``figures.npz``     counts of windows and series, Bloom filters of ids               at checkpoints
    ``reference/``      the drift reference, also while it is being collected            at checkpoints, then once
    ``probes/``         probe slices with their curves                                   at checkpoints
    ==================  ===============================================================  =============================

    A damaged file is reported in the log and its content is reset, because the worker must start nevertheless. Sums of windows and
    the rows for GAUC are not stored here; they are rebuilt from the score log.

    Parameters
    ----------
    folder
        Created at the first save.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.probes = ProbeStore(folder / "probes")
        self._arrays = ProbeStore(folder)
        self._reference_done = False

    def alerts(self) -> dict[str, Any]:
        """The content written by :meth:`save_alerts`; empty before the first call."""
        path = self.folder / "alerts.json"

        def read() -> dict[str, Any]:
            found = read_json_of_any_version(path)
            if not isinstance(found, dict):
                raise ValueError("not a JSON object")
            if found.pop("format", FORMAT) != FORMAT:
                raise ValueError(f"another version wrote it; this one reads format {FORMAT}")
            return found

        return (_or_none(path, read) or {}) if path.exists() else {}

    def save_alerts(self, content: Mapping[str, Any]) -> None:
        """Replace ``alerts.json``."""
        self._write(
            lambda: write_atomic(
                self.folder / "alerts.json", json_with_checksum({"format": FORMAT, **content})
            )
        )

    def figures(self) -> Arrays:
        """The arrays written by :meth:`save_figures`; empty before the first call."""
        if FIGURES not in self._arrays.names():
            return {}
        return _or_none(self.folder / f"{FIGURES}.npz", lambda: self._arrays.get(FIGURES)) or {}

    def save_figures(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace ``figures.npz``."""
        self._write(lambda: self._arrays.put(FIGURES, arrays))

    def reference(self, schema: FeatureSchema) -> Reference | None:
        """The stored drift reference; None: there is none, or it was made with other features."""
        folder = self.folder / "reference"
        if not (folder / "reference.json").exists():
            return None
        return _or_none(folder, lambda: Reference.load(folder, schema))

    def save_reference(self, reference: Reference, *, ready: bool) -> None:
        """Write the reference; a complete one is written only once."""
        if not self._reference_done:
            self._write(lambda: reference.save(self.folder / "reference"))
            self._reference_done = ready

    def _write(self, write: Callable[[], object]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write()
        except (OSError, EcdctrError) as error:
            log.error(
                "the state of the monitor cannot be written to %s (%s): a restart would load older values",
                self.folder,
                error,
            )


def _or_none(path: Path, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (OSError, ValueError, KeyError, EcdctrError) as error:
        log.error("%s cannot be loaded (%s): this part of the monitor is reset", path, error)
        return None
