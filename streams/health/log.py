"""``log_changes``: each reason in the log, once when it begins and once when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ecdctr.monitor.dashboard import Change, Reason

__all__ = ["log_changes"]

log = logging.getLogger("ecdctr.worker")

_QUIET = (
    Reason.STARTING,
    Reason.RECOVERING,
    Reason.STOPPING,
    Reason.FAILED,
    Reason.DEAD_LETTERS_WAIT,
)
"""Logged where they are found, with more particulars: by the worker, and by the lane of each dead-letter topic."""

_ENDED = {
    Reason.WAITING_FOR_BROKER: "a broker answers again",
    Reason.NO_LEADER: "all partitions have leaders again",
    Reason.TOPIC_MISSING: "the topic exists again",
    Reason.RIGHT_MISSING: "the brokers grant the right again",
    Reason.PASSWORD_REFUSED: "the brokers accept the user again",
    Reason.CERTIFICATE_REFUSED: "the brokers can be connected to again",
    Reason.DAMAGED_RECORDS: "all partitions can be read again",
    Reason.OPEN_TRANSACTION: "the transaction has ended",
    Reason.WAITING_FOR_DISK: "the state can be written again",
    Reason.STALLED: "records are learned again",
    Reason.ONLY_DEAD_LETTERS: "events are accepted again, or none arrive",
    Reason.CHECKPOINTS_FAIL: "checkpoints are written again",
    Reason.MONITOR_FAILED: "the monitor works again",
    Reason.REPORTS_FAIL: "metrics and alerts are updated again",
    Reason.NO_RELEASES: "CPM releases come again",
    Reason.OTHER_MEMBER: "the consumer group has no other member any more",
    Reason.WRONG_TIMES: "few events are rejected for their times",
}


def log_changes(changes: Iterable[Change]) -> None:
    """Write a line for each reason that has begun (a warning, unless all is well) or ended, with how long it lasted.

    Parameters
    ----------
    changes
        From :meth:`ecdctr.monitor.dashboard.Health.changes`.
    """
    for change in changes:
        reason = change.reason
        if reason in _QUIET:
            level = logging.DEBUG
        elif change.lasted_s is not None or reason.is_ok or reason.is_notice:
            level = logging.INFO
        else:
            level = logging.WARNING
        if change.lasted_s is None:
            log.log(level, "%s [%s]", change.sentence, reason.value)
        elif not reason.is_ok:
            ended = _ENDED.get(reason, f"no longer: {change.sentence}")
            log.log(level, "%s, after %.0f s [%s]", ended, change.lasted_s, reason.value)
        else:
            log.debug("%s ended after %.0f s", reason.value, change.lasted_s)
