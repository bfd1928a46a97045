"""Settings of what comes in: topics, the worker, and its metrics endpoint."""

from __future__ import annotations

from pydantic import Field, model_validator

from models.batch import AD, NATURAL
from models.settings import Section

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
        default=20_000,
        ge=1,
        description="Rows of one partition held for alignment; beyond it is not fetched.",
    )
    queue_length: int = Field(
        default=8, ge=1, description="Steps waiting for the trainer; beyond it fetching pauses."
    )
    poll_records: int = Field(default=5_000, ge=1, description="Records taken from the consumer at a time.")
    fetch_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Bytes asked of a partition at a time."
    )


class MonitorSettings(Section):
    """The metrics endpoint."""

    host: str = Field(default="127.0.0.1", description="Address it listens on; 0.0.0.0 in a container.")
    port: int = Field(default=9108, ge=0, le=65535, description="Port of /metrics; 0: none.")
