"""``Monitor``: what the steps of a trainer tell about the streams and the models; live and on old logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.batch import Batch
from models.features import FeatureSchema
from models.transfer import ReleaseReport
from monitor.rules import Alert
from monitor.settings import WatchSettings

__all__ = ["Monitor"]

Predict = Callable[[Batch, str], NDArray[np.float32]]
"""``predict(batch, arm)``: click probabilities of any rows; nothing is learned."""


class Monitor:
    """Watches a trainer through its steps. Safe to be read from other threads while one thread feeds it.

    Rows are only put aside by :meth:`observe` and worked off in blocks, so a step pays for little more than a list append.
    Everything follows event time; nothing depends on the wall clock.

    Parameters
    ----------
    schema
        The features, for the drift table's names.
    settings
        Windows, drift, forgetting, alert rules.

    Examples
    --------
    >>> from models.settings import default_features
    >>> monitor = Monitor(FeatureSchema(default_features(), 16))
    >>> monitor.snapshot()["windows"]["1h"]["ad"]["rows"]
    0
    """

    def __init__(self, schema: FeatureSchema, settings: WatchSettings | None = None) -> None:
        self.schema = schema
        self.settings = settings or WatchSettings()

    def observe(
        self,
        kind: str,
        batch: Batch,
        scored: NDArray[np.intp],
        scores: dict[str, NDArray[np.float32]],
        loss: dict[str, float],
        seconds: float,
        has_history: NDArray[np.bool_] | None = None,
    ) -> None:
        """A step that was done: the fields of ``StepResult``, the batch it learned, and its wall seconds.

        Parameters
        ----------
        kind
            ``natural`` or ``ad``: the batch holds rows of this domain alone.
        scored, scores
            Rows that were predicted before they were learned, and their probabilities by arm.
        loss
            Mean loss by arm that learned.
        seconds
            Wall time of the step.
        has_history
            Which rows' users had TPM vectors, shape ``(n,)``; None: unknown.
        """

    def release(self, report: ReleaseReport) -> None:
        """CPM was handed on: a mark on the time axis."""

    def month(self, months: Sequence[str], clock_ms: int | None = None) -> None:
        """CPM reads other TPM snapshots from now on: a mark on the time axis."""

    def checkpoint(self, predict: Predict, step: int) -> None:
        """Score the probe slices with the model as it is now (at a checkpoint): the forgetting chart's next point."""

    def snapshot(self) -> dict[str, Any]:
        """Everything that is known now, ready for JSON (numbers that do not exist are None).

        Returns
        -------
        dict
            ``clock``
                Event time reached, ms; None before the first row.
            ``rows``
                ``{natural, ad}``: rows observed since start.
            ``windows[window][domain]``
                ``window`` is ``5m``, ``1h`` or ``1d`` of event time up to ``clock``, ``domain`` ``natural`` or ``ad``:

                - ``rows, rows_per_s`` (event time), ``clicks, ctr, late`` (rows that came late), ``unseen_users, unseen_items``
                  (shares of rows), ``tpm_share`` (share of rows with TPM vectors);
                - ``arms[arm]``: ``rows, clicks, ctr, log_loss, ne, pcoc, auc, auc_error, gauc, gauc_error, gauc_users``. The true AUC
                  lies within ``auc +- auc_error`` always; GAUC within ``gauc +- gauc_error`` in 95 of 100 windows
                  (0: exact, all users were kept).
            ``series[window]``
                The past for charts, ``window`` ``5m`` (last day), ``1h`` (last week) or ``1d`` (last quarter): ``t`` (ends of the
                slots, ms, oldest first) and ``natural``, ``ad`` with one column a figure, as long as ``t``:
                ``rows, ctr, late``, ``arms[arm]`` with ``rows, log_loss, ne, pcoc`` and, from ``1h`` up, ``gauc, auc``.
            ``drift``
                - ``reference``: ``{name, from, until, rows: {natural, ad}, ready}`` (ms); ``ready`` False while it is being gathered;
                - ``evaluated_at``: event time of the last comparison, ms;
                - ``table``: one row for each thing compared, strongest first: ``what`` (``feature``, ``label``, ``prediction``,
                  ``behaviour``), ``name`` (feature, or arm), ``domain`` (``natural``, ``ad`` or ``both``), ``effect`` (1 = the
                  threshold at which it counts), ``psi, js, p_value, q_value`` (Benjamini-Hochberg), ``moved`` (bool),
                  ``since`` (ms, None unless moved), ``said`` (by how much, in words);
                - ``detectors``: ``{domain, arm, signal (log_loss, pcoc, ctr), detector, changes, last (ms or None), level}``.
            ``forgetting``
                ``periods``: ``{period, from, until, rows}`` of the probe slices; ``curves``: one for each (period, arm) with
                ``clock`` (list of ms), ``gauc``, ``log_loss`` and ``transfer`` (GAUC now minus GAUC when the period was last learned);
                ``staleness``: ``{arm, history ("all", "with", "without"), days: [low, high], rows, gauc}``.
            ``transfer``
                A-CTR against the control on ads: ``{rows, users, gauc: {value, low, high}, log_loss: {value, low, high},
                verdict}`` ("better", "worse", "undecided"), over the last ``days`` days.
            ``marks``
                ``{ts (ms), kind ("release", "month", "reference"), text}``, oldest first, the last 200.
            ``alerts``
                As :meth:`alerts`, as dictionaries.
        """
        empty: dict[str, Any] = {"rows": 0, "rows_per_s": 0.0, "clicks": 0, "ctr": None, "late": 0}
        empty |= {"unseen_users": None, "unseen_items": None, "tpm_share": None, "arms": {}}
        return {
            "clock": None,
            "rows": {"natural": 0, "ad": 0},
            "windows": {w: {d: dict(empty) for d in ("natural", "ad")} for w in ("5m", "1h", "1d")},
            "series": {
                w: {
                    "t": [],
                    **{d: {"rows": [], "ctr": [], "late": [], "arms": {}} for d in ("natural", "ad")},
                }
                for w in ("5m", "1h", "1d")
            },
            "drift": {
                "reference": {
                    "name": "",
                    "from": None,
                    "until": None,
                    "rows": {"natural": 0, "ad": 0},
                    "ready": False,
                },
                "evaluated_at": None,
                "table": [],
                "detectors": [],
            },
            "forgetting": {"periods": [], "curves": [], "staleness": []},
            "transfer": {
                "rows": 0,
                "users": 0,
                "days": 7,
                "gauc": None,
                "log_loss": None,
                "verdict": "undecided",
            },
            "marks": [],
            "alerts": [],
        }

    def alerts(self) -> list[Alert]:
        """Alerts now raised, oldest first."""
        return []

    def take_events(self) -> list[Alert]:
        """Alerts raised or resolved since the last call, in order, each once: what is to be delivered."""
        return []
