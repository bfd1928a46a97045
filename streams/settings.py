"""Settings of what comes in: topics, the worker, and what it shows of itself."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from ecdctr.events.batch import AD, NATURAL
from ecdctr.monitor.settings import WatchSettings
from ecdctr.state.errors import ConfigError
from ecdctr.state.settings import Section

__all__ = ["MonitorSettings", "TopicSettings", "WorkerSettings"]


class TopicSettings(Section):
    """The two click streams.

    >>> TopicSettings().dead_letter("ad-clicks")
    'ad-clicks.dlq'
    """

    natural: str = Field(default="natural-clicks", min_length=1, description="Topic of natural clicks.")
    ad: str = Field(default="ad-clicks", min_length=1, description="Topic of ad clicks.")
    partitions: int = Field(default=4, ge=1, description="Partitions of a topic that has to be created.")
    replication: int = Field(default=1, ge=1, description="Replicas of a topic that has to be created.")
    dead_letter_suffix: str = Field(
        default=".dlq", min_length=1, description="A topic's dead letters go to the topic of this name."
    )

    @model_validator(mode="after")
    def _topics_differ(self) -> TopicSettings:
        if self.natural == self.ad:
            raise ValueError(f"natural and ad are the same topic {self.natural!r}")
        return self

    @property
    def domains(self) -> dict[str, int]:
        """``{topic: domain}`` of the two click topics."""
        return {self.natural: NATURAL, self.ad: AD}

    def dead_letter(self, topic: str) -> str:
        """Where the messages of a topic go that do not fit."""
        return topic + self.dead_letter_suffix


class WorkerSettings(Section):
    """The stream worker."""

    group: str = Field(default="ecdctr", min_length=1, description="Consumer group, and id of the Faust app.")
    session_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="A worker unheard of for so long loses its partitions; real brokers refuse less than 6.",
    )
    connect_timeout_s: float = Field(
        default=60.0, ge=0, description="A broker that does not answer at start is waited for so long."
    )
    max_idle_s: float = Field(
        default=5.0, ge=0, description="An empty partition is waited for so long; then the others go on."
    )
    max_behind_s: float = Field(
        default=30.0,
        gt=0,
        description="A partition that owes rows and delivers none is waited for so long; then the others go on.",
    )
    max_wait_s: float = Field(
        default=5.0, gt=0, description="A row waits so long at most for its batch to become full."
    )
    buffer_rows: int = Field(
        default=0,
        ge=0,
        description="Rows of one partition held for alignment, beyond which it is not fetched; 0: eight full steps, "
        "20,000 at least.",
    )
    queue_length: int = Field(
        default=8, ge=1, description="Steps waiting for the trainer; beyond it fetching pauses."
    )
    decoders: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that decode messages beside the worker; 0: it decodes itself. docs/scaling.md says when.",
    )
    poll_records: int = Field(default=5_000, ge=1, description="Records taken from the consumer at a time.")
    fetch_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Bytes asked of a partition at a time."
    )

    def buffer_for(self, batch: int) -> int:
        """Rows of one partition that may wait, where the largest step takes ``batch`` rows.

        A partition that holds less than a step is full before it can give one, and the trainer waits.

        >>> WorkerSettings().buffer_for(512), WorkerSettings().buffer_for(4096)
        (20000, 32768)
        >>> WorkerSettings(buffer_rows=5_000).buffer_for(4096)
        5000
        """
        return self.buffer_rows or max(20_000, 8 * batch)


class MonitorSettings(Section):
    """What watches: the page and its port, alerts, what is watched."""

    host: str = Field(
        default="127.0.0.1", description="Address the page and /metrics listen on; 0.0.0.0 in a container."
    )
    port: int = Field(default=9108, ge=0, le=65535, description="Port of the page and of /metrics; 0: none.")
    watchdog_s: float = Field(
        default=300.0,
        gt=0,
        description="Records wait and no step was done for so long: /healthz answers 503. Above the longest release.",
    )
    alerts_topic: str = Field(
        default="ecdctr-alerts", description="Topic that alerts go to as JSON, made if absent; empty: none."
    )
    webhook_url: SecretStr | None = Field(
        default=None,
        description="Alerts are posted here as JSON; better from the environment or webhook_url_file. Never printed.",
    )
    webhook_url_file: Path | None = Field(
        default=None, description="File whose first line is the webhook's address."
    )
    webhook_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=60,
        description="A webhook that does not answer for so long is tried again later.",
    )
    watch: WatchSettings = Field(
        default_factory=WatchSettings, description="Windows, drift, forgetting, alert rules."
    )

    @model_validator(mode="after")
    def _one_webhook(self) -> MonitorSettings:
        if self.webhook_url is not None and self.webhook_url_file is not None:
            raise ValueError("give webhook_url or webhook_url_file, not both")
        if self.webhook_url is not None:
            _check_webhook("webhook_url", self.webhook_url.get_secret_value())
        return self

    def webhook(self) -> str | None:
        """The webhook's address, read from ``webhook_url_file`` where that is set."""
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
        raise ValueError(f"{name}: an address begins with https:// or http:// and names a host")
