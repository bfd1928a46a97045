"""What a monitor knows, kept in a folder: a restart of its worker neither forgets an alert nor raises it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ecdctr.events.schema import FeatureSchema
from ecdctr.monitor.drift import Reference
from ecdctr.state.errors import EcdctrError
from ecdctr.state.files import write_atomic
from ecdctr.state.probes import ProbeStore

__all__ = ["MonitorFolder"]

log = logging.getLogger("ecdctr.monitor")

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")
FIGURES = "figures"


class MonitorFolder:
    """Files of a monitor; each is written aside and renamed, so ``kill -9`` leaves the old one or the new one.

    ==================  ===============================================================  =============================
    ``alerts.json``     alerts that are raised, events not handed on yet, marks          at every event
    ``figures.npz``     counts of windows and series, ids met so far                     at checkpoints
    ``reference/``      the drift reference, also while it is being gathered             at checkpoints, then once
    ``probes/``         probe slices with their curves                                   at checkpoints
    ==================  ===============================================================  =============================

    What is damaged is named in the log and begun anew; nothing here is worth a worker that does not start. Sums of windows and
    the rows behind GAUC are not kept: they come from the score log.

    Parameters
    ----------
    folder
        Made at the first save.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.probes = ProbeStore(folder / "probes")
        self._arrays = ProbeStore(folder)
        self._reference_done = False

    def alerts(self) -> dict[str, Any]:
        """What :meth:`save_alerts` wrote; empty: nothing yet."""
        path = self.folder / "alerts.json"

        def read() -> dict[str, Any]:
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
            return found

        return (_or_anew(path, read) or {}) if path.exists() else {}

    def save_alerts(self, content: Mapping[str, Any]) -> None:
        """Replace ``alerts.json``."""
        self._write(lambda: write_atomic(self.folder / "alerts.json", json.dumps(content).encode()))

    def figures(self) -> Arrays:
        """What :meth:`save_figures` wrote; empty: nothing yet."""
        if FIGURES not in self._arrays.names():
            return {}
        return _or_anew(self.folder / f"{FIGURES}.npz", lambda: self._arrays.get(FIGURES)) or {}

    def save_figures(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace ``figures.npz``."""
        self._write(lambda: self._arrays.put(FIGURES, arrays))

    def reference(self, schema: FeatureSchema) -> Reference | None:
        """The drift reference that was taken here; None: none yet, or one of other features."""
        folder = self.folder / "reference"
        if not (folder / "reference.json").exists():
            return None
        return _or_anew(folder, lambda: Reference.load(folder, schema))

    def save_reference(self, reference: Reference, *, ready: bool) -> None:
        """Keep the reference; once it is complete it is not written again."""
        if not self._reference_done:
            self._write(lambda: reference.save(self.folder / "reference"))
            self._reference_done = ready

    def _write(self, write: Callable[[], object]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write()
        except (OSError, EcdctrError) as error:
            log.error(
                "the monitor's state is not written to %s (%s): a restart knows older figures",
                self.folder,
                error,
            )


def _or_anew(path: Path, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (OSError, ValueError, KeyError, EcdctrError) as error:
        log.error("%s cannot be used (%s): the monitor begins it anew", path, error)
        return None
