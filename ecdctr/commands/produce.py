"""``ecdctr produce``: the events of a source to the two click topics."""

from __future__ import annotations

from rich.console import Console

from ecdctr.progress import progress_bar
from ecdctr.settings import Loaded
from ecdctr.sources import open_with_features
from ecdctr.streams.producer import produce
from ecdctr.streams.retry import call_until_available
from ecdctr.streams.topics import ensure_topics

__all__ = ["produce_source"]


def produce_source(
    out: Console, err: Console, loaded: Loaded, text: str, *, packed: int, rate: float
) -> dict[str, int]:
    """Send the events of a source to the two click topics; return the rows sent by topic."""
    source, settings = open_with_features(text, loaded)
    wait_s = settings.worker.connect_timeout_s
    call_until_available(lambda: ensure_topics(settings.kafka, settings.topics), wait_s, lambda: False)
    with progress_bar(err, f"produce {source.name}", source.count()) as update:
        sent = produce(
            source.frames(),
            settings.kafka,
            settings.topics,
            packed=packed,
            rows_per_s=rate or None,
            progress=update,
            connect_timeout_s=wait_s,
        )
    out.print(", ".join(f"{n:,} rows to {topic}" for topic, n in sent.items()))
    return sent
