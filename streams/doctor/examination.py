"""``Examination``: all checks in the order in which a worker needs what they check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kafka.errors import KafkaError, KafkaTimeoutError

from ecdctr.events.batch import DOMAIN_NAMES
from ecdctr.events.decoder import EventDecoder
from ecdctr.events.kafka import short_text
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import ConfigError, EcdctrError
from ecdctr.state.settings import StateSettings
from ecdctr.streams.doctor.checks import Check, Report, failed, ok, skipped
from ecdctr.streams.doctor.cluster import ClusterView, view_cluster
from ecdctr.streams.doctor.connection import check_connection
from ecdctr.streams.doctor.contents import check_clocks, check_contents
from ecdctr.streams.doctor.fields import examine_records
from ecdctr.streams.doctor.rights import check_rights
from ecdctr.streams.doctor.sample import read_last
from ecdctr.streams.doctor.state_folder import check_state_folder
from ecdctr.streams.doctor.topics import check_topics
from ecdctr.streams.settings import TopicSettings

__all__ = ["Examination", "Subjects"]

REQUEST_S = 5.0
SAMPLE_S = 10.0
WHOLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Subjects:
    """What is checked.

    Attributes
    ----------
    kafka, topics, state
        Parts of the configuration.
    alerts, group
        Topic of alerts (empty: none) and the group under which offsets are published.
    months
        What TPM would read from the topics, as a sentence part; empty: nothing.
    make_decoder
        Makes the worker's decoder; raises ConfigError if features and fields do not fit.
    """

    kafka: KafkaSettings
    topics: TopicSettings
    state: StateSettings
    alerts: str
    group: str
    months: str
    make_decoder: Callable[[], EventDecoder]


class Examination:
    """Checks what a worker will need. It joins no group, and changes nothing on the cluster and on the disk.

    1. The files and secrets of the configuration, and the features.
    2. The connection to each broker.
    3. Rights and topics, from what the brokers tell about them.
    4. The last messages of each click topic, decoded as a worker does.
    5. The state folder.

    A part that fails does not end the examination: what cannot be checked without it is listed as such.

    Parameters
    ----------
    subjects
        What is checked.
    messages
        Messages of each topic that are decoded; 0: none.
    only
        Decode messages of this click topic only.
    request_s, sample_s, whole_s
        Limits in seconds: for a request, for the sample of a topic, for everything that asks the brokers.
    """

    def __init__(
        self,
        subjects: Subjects,
        *,
        messages: int = 1000,
        only: str | None = None,
        request_s: float = REQUEST_S,
        sample_s: float = SAMPLE_S,
        whole_s: float = WHOLE_S,
    ) -> None:
        self._subjects, self._messages, self._only = subjects, messages, only
        self._request_s, self._sample_s, self._whole_s = request_s, sample_s, whole_s

    def run(self) -> Report:
        """Make all checks; the result is complete whatever fails."""
        report = Report()
        self._configuration(report)
        if report.would_run:
            self._ask_brokers(report)
        else:
            report.add([skipped("brokers", "not asked: correct the configuration first")])
        report.add(check_state_folder(self._subjects.state))
        return report

    # -- 1

    def _configuration(self, report: Report) -> None:
        name = "configuration"
        try:
            self._subjects.kafka.kafka_python()
            specs = self._subjects.make_decoder().schema.specs
        except ConfigError as error:
            report.add([failed(name, str(error))])
        else:
            report.add([ok(name, f"valid: {len(specs)} features, {self._subjects.kafka.security}")])

    # -- 2, 3, 4

    def _ask_brokers(self, report: Report) -> None:
        """In a thread: a client that hangs in spite of its own limits must not hang the examination."""
        found = Report()
        thread = threading.Thread(target=self._brokers, args=(found,), name="doctor", daemon=True)
        thread.start()
        thread.join(self._whole_s)
        late = thread.is_alive()
        report.add(list(found.checks))
        report.samples.update(found.samples)
        if late:
            report.add(
                [
                    failed(
                        "brokers",
                        f"the checks did not end within {self._whole_s:.0f} s",
                        "see whether a broker hangs",
                    )
                ]
            )

    def _brokers(self, report: Report) -> None:
        try:
            self._checks_of_brokers(report)
        except Exception as error:  # in a thread: nobody else would see it
            report.add(
                [failed("brokers", f"the checks ended with an error: {short_text(error)}", "report it")]
            )

    def _checks_of_brokers(self, report: Report) -> None:
        s = self._subjects
        checks, usable = check_connection(s.kafka, self._request_s)
        report.add(checks)
        if not usable:
            report.add([skipped("rights, topics and messages", "no broker can be used")])
            return
        view = self._view(report)
        if view is None:
            return
        report.add(check_rights(view, s.kafka, s.topics, s.alerts, s.group))
        report.add(check_topics(view, s.topics, s.alerts, s.state.journal_keep_days, s.months))
        if self._messages:
            for topic, domain in s.topics.domains.items():
                if self._only in (None, topic):
                    report.add(self._sample(report, view, topic, domain))

    def _view(self, report: Report) -> ClusterView | None:
        s = self._subjects
        wanted = dict.fromkeys(s.topics.domains, s.topics.partitions)
        wanted |= {s.topics.dead_letter(name): 1 for name in s.topics.domains} | (
            {s.alerts: 1} if s.alerts else {}
        )
        try:
            return view_cluster(s.kafka, wanted, s.topics.replication, s.group, self._request_s)
        except KafkaTimeoutError:
            found, way_out = (
                f"the brokers accept connections, but do not answer within {self._request_s:.0f} s",
                "see whether a broker hangs or is overloaded",
            )
        except KafkaError as error:
            found, way_out = f"a request failed: {short_text(error)}", "see the log of the brokers"
        report.add([failed("rights and topics", found, way_out)])
        return None

    def _sample(self, report: Report, view: ClusterView, topic: str, domain: int) -> Iterator[Check]:
        s = self._subjects
        name = f'messages of "{topic}"'
        found = view.topics.get(topic)
        if found is None or not found.exists:
            yield skipped(name, "the topic does not exist, or is not shown to this client")
            return
        if found.rights is not None and "READ" not in found.rights:
            yield skipped(name, "they may not be read: see the rights")
            return
        numbers = [partition.number for partition in found.partitions if partition.leader >= 0]
        if not numbers:
            yield skipped(name, "no partition has a leader")
            return
        try:
            records = read_last(s.kafka, topic, numbers, self._messages, self._sample_s)
        except EcdctrError as error:
            yield failed(name, str(error))
            return
        sampled, times = examine_records(s.make_decoder(), topic, domain, records)
        report.samples[topic] = sampled
        yield from check_contents(topic, sampled, DOMAIN_NAMES[domain])
        yield from check_clocks(topic, times)
