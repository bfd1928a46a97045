"""Settings of the input topics, of the worker, and of its monitoring."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from ecdctr.events.batch import AD, NATURAL
from ecdctr.monitor.allowed_hosts import check_host_pattern
from ecdctr.monitor.settings import WatchSettings
from ecdctr.state.errors import ConfigError
from ecdctr.state.settings import Section

__all__ = ["MonitorSettings", "TopicSettings", "WorkerSettings", "check_topic_name", "check_topics_differ"]

_LONGEST_NAME = 249
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class TopicSettings(Section):
    """The two click streams.

    >>> TopicSettings().dead_letter("ad-clicks")
    'ad-clicks.dlq'
    """

    natural: str = Field(
        default="natural-clicks",
        min_length=1,
        description="Topic of the events of natural content: impressions with their label.",
    )
    ad: str = Field(
        default="ad-clicks",
        min_length=1,
        description="Topic of the events of ads: impressions with their label.",
    )
    partitions: int = Field(
        default=4, ge=1, le=100_000, description="Partitions of a topic that the worker creates."
    )
    replication: int = Field(
        default=1, ge=1, le=1_000, description="Replicas of a topic that the worker creates."
    )
    dead_letter_suffix: str = Field(
        default=".dlq",
        min_length=1,
        description="Suffix of a topic's name in the name of its dead-letter topic.",
    )

    @model_validator(mode="after")
    def _names_are_legal_and_differ(self) -> TopicSettings:
        if self.natural == self.ad:
            raise ValueError(
                f"natural and ad are the same topic {self.natural!r}: give each stream a topic of its own"
            )
        for key in ("natural", "ad"):
            check_topic_name(key, getattr(self, key))
        for key in ("natural", "ad"):
            dead = self.dead_letter(getattr(self, key))
            check_topic_name(f"the dead-letter topic of {key} ({key} + dead_letter_suffix)", dead)
        check_topics_differ(self.keys)
        return self

    @property
    def keys(self) -> dict[str, str]:
        """``{key of the configuration: topic}`` of the click topics and their dead-letter topics."""
        found = {f"topics.{key}": getattr(self, key) for key in ("natural", "ad")}
        return found | {
            f"the dead-letter topic of {key}": self.dead_letter(name) for key, name in found.items()
        }

    @property
    def domains(self) -> dict[str, int]:
        """``{topic: domain}`` of the two click topics."""
        return {self.natural: NATURAL, self.ad: AD}

    def dead_letter(self, topic: str) -> str:
        """Name of the dead-letter topic for rejected messages of a topic."""
        return topic + self.dead_letter_suffix


def check_topic_name(key: str, name: str) -> None:
    """Raise ValueError if Kafka does not accept the name of a topic.

    >>> check_topic_name("ad", "ads clicks")
    Traceback (most recent call last):
    ValueError: ad = 'ads clicks' is not a name of a topic: use letters, digits, '.', '_' and '-' only
    """
    if len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{key} has {len(name)} letters, and a topic's name has {_LONGEST_NAME} at most: shorten {name[:40]!r}..."
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{key} = {name!r} is not a name of a topic: use letters, digits, '.', '_' and '-' only"
        )
    if name in (".", ".."):
        raise ValueError(f"{key} = {name!r} is not a name of a topic: add letters or digits")


def check_topics_differ(topics: Mapping[str, str]) -> None:
    """Raise ValueError if two of the topics, given by their keys, are the same for Kafka.

    Kafka refuses a topic whose name differs from that of another one only by '.' in place of '_'.

    >>> check_topics_differ({"natural": "a.b", "ad": "a_b"})
    Traceback (most recent call last):
    ValueError: natural = 'a.b' and ad = 'a_b' differ only in '.' and '_', which Kafka does not distinguish: rename one
    """
    seen: dict[str, str] = {}
    for key, name in topics.items():
        plain = name.replace(".", "_")
        other = seen.setdefault(plain, key)
        if other == key:
            continue
        if topics[other] == name:
            raise ValueError(f"{other} and {key} are the same topic {name!r}: rename one")
        raise ValueError(
            f"{other} = {topics[other]!r} and {key} = {name!r} differ only in '.' and '_', which Kafka does not distinguish: "
            "rename one"
        )


class WorkerSettings(Section):
    """The stream worker."""

    group: str = Field(
        default="ecdctr",
        min_length=1,
        description="Consumer group to which the positions of each checkpoint are committed, so that monitoring tools can show the "
        "lag. The worker is no member of it and never reads what was committed.",
    )
    connect_timeout_s: float = Field(
        default=60.0, ge=0, description="How long to wait at start for a broker that does not answer."
    )
    max_idle_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds that the other partitions wait for a partition whose records have all been read.",
    )
    max_behind_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that the other partitions wait for a partition of which the topic has unread records, but which "
        "delivers none.",
    )
    max_wait_s: float = Field(
        default=5.0, gt=0, description="Seconds that a row waits for its batch to become full, at most."
    )
    buffer_rows: int = Field(
        default=0,
        ge=0,
        description="Maximum number of buffered rows per partition; a partition with a full buffer is not fetched. 0: eight full "
        "steps, but at least 20,000.",
    )
    queue_length: int = Field(
        default=8,
        ge=1,
        description="Maximum number of steps in the trainer's queue; fetching pauses while it is full.",
    )
    decoders: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that decode messages; 0: the worker decodes JSON itself, and one process reads packed messages, if there "
        "are any. See docs/scaling.md.",
    )
    poll_records: int = Field(
        default=5_000, ge=1, le=1_000_000, description="Records read from the consumer at a time."
    )
    fetch_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        le=2**31 - 1,
        description="Bytes fetched from a partition at a time.",
    )

    def buffer_for(self, batch: int) -> int:
        """Rows of one partition that may wait for alignment, where the largest step takes ``batch`` rows.

        A buffer smaller than a step would be full before it contains one, and the trainer would wait.

        >>> WorkerSettings().buffer_for(512), WorkerSettings().buffer_for(4096)
        (20000, 32768)
        >>> WorkerSettings(buffer_rows=5_000).buffer_for(4096)
        5000
        """
        return self.buffer_rows or max(20_000, 8 * batch)


class MonitorSettings(Section):
    """The dashboard and its port, the delivery of alerts, and what the monitor computes."""

    host: str = Field(
        default="127.0.0.1", description="Address of the dashboard and /metrics; 0.0.0.0 in a container."
    )
    port: int = Field(
        default=9108,
        ge=0,
        le=65535,
        description="Port of the dashboard and /metrics; 0: no HTTP server is started.",
    )
    allowed_hosts: tuple[str, ...] | str = Field(
        default=(),
        validate_default=True,
        description="Names by which a browser may address the dashboard, besides IP addresses, localhost and this machine's name: a list, "
        "or one string separated by commas; .example.com stands for all names below it, * for any name.",
    )
    watchdog_s: float = Field(
        default=300.0,
        gt=0,
        description="/healthz returns 503 if records are waiting and no step was completed for this many seconds. Must exceed the "
        "time that the longest CPM release takes.",
    )
    alerts_topic: str = Field(
        default="ecdctr-alerts",
        description="Topic for alerts as JSON, created if absent; empty: alerts are not sent to Kafka.",
    )
    webhook_url: SecretStr | None = Field(
        default=None,
        description="Address that alerts are posted to as JSON; preferably set by the environment or webhook_url_file. Never printed.",
    )
    webhook_url_file: Path | None = Field(
        default=None, description="File whose first line is the address of the webhook."
    )
    webhook_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=60,
        description="A request to the webhook that takes longer is repeated later.",
    )
    watch: WatchSettings = Field(
        default_factory=WatchSettings, description="Windows, drift, forgetting, alert rules."
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_are_names(cls, value: tuple[str, ...] | str) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(check_host_pattern(part) for part in parts if part.strip())

    @field_validator("alerts_topic")
    @classmethod
    def _alerts_topic_is_legal(cls, value: str) -> str:
        if value:
            check_topic_name("alerts_topic", value)
        return value

    @model_validator(mode="after")
    def _one_webhook(self) -> MonitorSettings:
        if self.webhook_url is not None and self.webhook_url_file is not None:
            raise ValueError("set webhook_url or webhook_url_file, not both")
        if self.webhook_url is not None:
            _check_webhook("webhook_url", self.webhook_url.get_secret_value())
        return self

    def webhook(self) -> str | None:
        """The address of the webhook, read from ``webhook_url_file`` if that is set; None: no webhook."""
        if self.webhook_url_file is None:
            return None if self.webhook_url is None else self.webhook_url.get_secret_value()
        try:
            lines = self.webhook_url_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(
                f"monitor.webhook_url_file {self.webhook_url_file}: {error.strerror}"
            ) from error
        address = lines[0].strip() if lines else ""
        try:
            _check_webhook(f"monitor.webhook_url_file {self.webhook_url_file}", address)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return address


def _check_webhook(name: str, address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name}: the address must begin with https:// or http:// and contain a host")
