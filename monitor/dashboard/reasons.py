"""``Reason``: every state of health that a worker reports, with its rank and its general sentence."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Reason"]


class Reason(StrEnum):
    """States of health, the most severe first; several may hold at once, and the first of them is the status of ``/healthz``.

    The values are stable: they are the status in ``/healthz`` and the label of the metric ``ecdctr_health``. docs/operations.md
    describes each of them.

    Examples
    --------
    >>> sorted([Reason.IDLE, Reason.NO_LEADER, Reason.FAILED], key=Reason.rank.fget)
    [<Reason.FAILED: 'failed'>, <Reason.NO_LEADER: 'partition_without_leader'>, <Reason.IDLE: 'idle'>]
    >>> [reason.value for reason in Reason if reason.is_ok]
    ['training', 'idle']
    """

    FAILED = "failed"
    CERTIFICATE_REFUSED = "certificate_refused"
    PASSWORD_REFUSED = "password_refused"
    RIGHT_MISSING = "right_missing"
    TOPIC_MISSING = "topic_missing"
    WAITING_FOR_BROKER = "waiting_for_broker"
    NO_LEADER = "partition_without_leader"
    DAMAGED_RECORDS = "damaged_records"
    OPEN_TRANSACTION = "open_transaction"
    THROTTLED = "throttled"
    WAITING_FOR_DISK = "waiting_for_disk"
    DEAD_LETTERS_WAIT = "dead_letters_not_taken"
    STALLED = "stalled"
    ONLY_DEAD_LETTERS = "only_dead_letters"
    CHECKPOINTS_FAIL = "checkpoints_fail"
    MONITOR_FAILED = "monitor_failed"
    REPORTS_FAIL = "reports_fail"
    NO_RELEASES = "no_releases"
    STOPPING = "stopping"
    RECOVERING = "recovering"
    STARTING = "starting"
    TRAINING = "training"
    IDLE = "idle"
    OTHER_MEMBER = "other_member"
    WRONG_TIMES = "wrong_times"

    @property
    def rank(self) -> int:
        """0 for the most severe."""
        return _RANK[self]

    @property
    def is_ok(self) -> bool:
        """Whether the worker does what it should: it learns the records of the topics, or none waits."""
        return self in (Reason.TRAINING, Reason.IDLE)

    @property
    def is_notice(self) -> bool:
        """Whether it is only information, which does not change the status."""
        return self in (Reason.OTHER_MEMBER, Reason.WRONG_TIMES)

    @property
    def sentence(self) -> str:
        """What it means in general; a report states the particulars instead, where there are any."""
        return _SENTENCES[self]


_RANK = {reason: number for number, reason in enumerate(Reason)}

_SENTENCES = {
    Reason.FAILED: "training has ended with an error",
    Reason.CERTIFICATE_REFUSED: "the connection to the brokers is refused because of TLS or a certificate",
    Reason.PASSWORD_REFUSED: "the brokers refuse the user, the password or the SASL mechanism",
    Reason.RIGHT_MISSING: "the brokers refuse a right that the worker needs",
    Reason.TOPIC_MISSING: "a click topic does not exist",
    Reason.WAITING_FOR_BROKER: "a broker does not answer; training continues when it does",
    Reason.NO_LEADER: "a partition has no leader; the records of other partitions are learned",
    Reason.DAMAGED_RECORDS: "a partition cannot be read, because its leader returns damaged records; other partitions are learned",
    Reason.OPEN_TRANSACTION: "records cannot be read yet, because they come after a transaction that is still open",
    Reason.THROTTLED: "a quota of the brokers limits this client; records are learned at the rate that it allows",
    Reason.WAITING_FOR_DISK: "the state cannot be written; training waits for disk space",
    Reason.DEAD_LETTERS_WAIT: "the dead-letter topic does not take rejected records; their partitions wait",
    Reason.STALLED: "records are waiting and nothing is learned from them",
    Reason.ONLY_DEAD_LETTERS: "nearly all events are rejected",
    Reason.CHECKPOINTS_FAIL: "checkpoints cannot be written; training continues, and its rows are in the journal",
    Reason.MONITOR_FAILED: "the monitor has failed; training continues, and the monitor is started again",
    Reason.REPORTS_FAIL: "metrics or alerts are not updated",
    Reason.NO_RELEASES: "CPM releases no longer come",
    Reason.STOPPING: "the worker is stopping",
    Reason.RECOVERING: "recovering: the steps of the journal after the checkpoint are executed again",
    Reason.STARTING: "starting: the worker has not reported the ends of its topics yet",
    Reason.TRAINING: "training",
    Reason.IDLE: "idle: every record of the topics has been learned",
    Reason.OTHER_MEMBER: "another consumer is a member of the consumer group",
    Reason.WRONG_TIMES: "events are rejected for their times",
}
