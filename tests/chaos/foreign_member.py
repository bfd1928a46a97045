"""Joins the worker's consumer group as any other consumer would, says which partitions it was given, and reads on."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from ecdctr.settings import load_settings


async def main(config: Path) -> None:
    settings = load_settings(config, environ={}).settings
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(
        *settings.topics.domains,
        **settings.kafka.aiokafka(),
        group_id=settings.worker.group,
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
        session_timeout_ms=6_000,
        heartbeat_interval_ms=200,
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        while not stop.is_set() and not consumer.assignment():
            await asyncio.sleep(0.05)
        print(f"assigned {len(consumer.assignment())}", flush=True)
        while not stop.is_set():
            await consumer.getmany(timeout_ms=100)
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
