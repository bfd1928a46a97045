"""``ecdctr topics``: partitions, offsets and lag of the topics."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ecdctr.settings import Loaded
from ecdctr.state.errors import StreamError
from ecdctr.streams.retry import call_until_available
from ecdctr.streams.topics import describe_topics, ensure_topics

__all__ = ["show_topics"]


def show_topics(out: Console, loaded: Loaded, *, create: bool) -> None:
    """Print partitions, offsets and the lag of the worker's last checkpoint; with ``create``, create missing topics first."""
    settings = loaded.settings
    wait_s = settings.worker.connect_timeout_s
    if create:
        found = call_until_available(
            lambda: ensure_topics(settings.kafka, settings.topics), wait_s, lambda: False
        )
        for name, partitions in found.items():
            out.print(f"{name}: {partitions} partitions")
    states = call_until_available(
        lambda: describe_topics(settings.kafka, settings.topics, settings.worker.group), wait_s, lambda: False
    )
    table = Table("topic", "partition", "first", "end", "learned", "lag", box=None, pad_edge=False)
    for p in states:
        click = p.topic in settings.topics.domains
        table.add_row(
            p.topic, str(p.partition), f"{p.beginning:,}", f"{p.end:,}",
            "" if p.committed is None else f"{p.committed:,}", f"{p.lag:,}" if click else "",
        )  # fmt: skip
    if not table.row_count:
        raise StreamError("none of the topics exists: create them with `ecdctr topics --create`")
    out.print(table)
