"""Joins the worker's consumer group, says which partitions it was given, and reads them without counting anything."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from ecdctr import factory
from ecdctr.events.align import Chunk
from ecdctr.settings import load_settings
from ecdctr.streams.app import StreamApp, run_app
from ecdctr.streams.dead_letters import MemoryDeadLetters


class Nowhere:
    """An intake that keeps nothing."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, int], int] = {}
        self.reported = False

    def position(self, topic: str, partition: int) -> int | None:
        if not self.reported:
            print(f"assigned {topic} {partition}", flush=True)
            self.reported = True
        return self.at.setdefault((topic, partition), 0)

    def wants(self, topic: str, partition: int) -> bool:
        return True

    def set_end(self, topic: str, partition: int, end: int) -> None: ...

    async def put(self, chunk: Chunk) -> None:
        self.at[(chunk.topic, chunk.partition)] = chunk.end


async def main(config: Path) -> None:
    settings = load_settings(config, environ={}).settings
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = StreamApp(
        settings.kafka,
        settings.topics,
        settings.worker,
        factory.decoder(settings),
        Nowhere(),
        MemoryDeadLetters(),
    )
    await run_app(app, stop)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
