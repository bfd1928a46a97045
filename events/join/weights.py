"""``sample_weights``: the weights with which early negatives and corrections give the loss of the true labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sample_weights"]


def sample_weights(
    label: NDArray[np.uint8], predicted: NDArray[np.float64], late_share: float
) -> NDArray[np.float64]:
    """Importance weights for ``join.late_clicks`` = ``correct`` or ``early``; with ``drop`` every weight is 1.

    Let ``p`` be the click probability of an impression and ``s`` the share of clicks that come only after its negative was emitted. Per
    impression, ``p`` positives are emitted (on time or as corrections) and ``1 - (1 - s) p`` negatives, but ``1 - p`` of the
    impressions have no click. The ratio of true to emitted density gives::

        positive  w = 1                negative  w = (1 - p) / (1 - (1 - s) p)

    With ``s = 1`` (``early``: every click finds its impression labelled 0) this is the fake-negative weighting of Ktena et al. (2019),
    ``1 + p`` and ``(1 - p) (1 + p)``, divided by ``1 + p``. A factor that depends on the impression alone leaves the minimum of the expected loss
    where it is; without it, the expected weight of an impression is 1. ``p`` is unknown: the model's own prediction takes its
    place, and no gradient flows through it.

    Parameters
    ----------
    label
        0 or 1, shape ``(n,)``.
    predicted
        The model's prediction before it learns the rows, shape ``(n,)``.
    late_share
        ``s``: 1 with ``early``; with ``correct``, the share of clicks after the window (:class:`DelayHistogram`).

    Returns
    -------
    numpy.ndarray
        float64, shape ``(n,)``, within 0 .. 1.

    Examples
    --------
    >>> sample_weights(np.array([1, 0, 0], np.uint8), np.array([0.2, 0.2, 0.2]), 1.0).tolist()
    [1.0, 0.8, 0.8]
    >>> sample_weights(np.array([0], np.uint8), np.array([0.2]), 0.0).tolist()
    [1.0]
    """
    if not 0.0 <= late_share <= 1.0:
        raise ValueError(f"late_share is {late_share}, expected a share from 0 to 1")
    negative = 1.0 - predicted
    emitted = 1.0 - (1.0 - late_share) * predicted
    share = np.divide(negative, emitted, out=np.ones_like(negative), where=emitted > 0)
    return np.where(label == 1, 1.0, share)
