import asyncio
import os
import random
import signal
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from ecdctr.events.batch import Batch
from ecdctr.events.decoder import EventDecoder, to_arrow_message
from ecdctr.events.records import decode_values
from ecdctr.events.settings import FeatureSpec
from ecdctr.streams.app import StreamApp
from ecdctr.streams.dead_letters import MemoryDeadLetters
from ecdctr.streams.decoders import LEAST, DecodePool
from tests.support.intakes import MemoryIntake, event, frame, running

SPECS = (
    FeatureSpec(name="site", buckets=50),
    FeatureSpec(name="price", kind="numeric"),
    FeatureSpec(name="tags", kind="bag", max_length=3),
)


def same(one, other) -> None:
    for f in fields(Batch):
        a, b = getattr(one.batch, f.name), getattr(other.batch, f.name)
        if a is None or f.name == "parts":
            assert a == b
        else:
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert one.index.tolist() == other.index.tolist()
    assert one.rejects == other.rejects


def mixed(rng: random.Random, count: int) -> tuple[list[bytes | None], list[bool]]:
    """JSON and packed messages, some of them broken, and which are packed."""
    values, packed = [], []
    for i in range(count):
        form = rng.random()
        if form < 0.1:
            events = frame(rng.randrange(1, 20), seed=i).with_columns(tags=None)
            values.append(to_arrow_message(events))
            packed.append(True)
        else:
            packed.append(form < 0.12)
            good = event(i, tags=rng.choice([["a", "b"], [], None]))
            values.append(rng.choice([good] * 8 + [good[:20], None, event(i, tags=[1.5])]))
    return values, packed


@pytest.fixture
def pool():
    decoder = EventDecoder(SPECS, max_string=40, oracle_field="p")
    made = DecodePool(decoder, 2)
    made.decoder = decoder
    yield made
    made.close()


@pytest.mark.slow
def test_processes_give_what_the_worker_itself_would_to_the_last_bit(pool):
    rng = random.Random(3)
    for count in (1, LEAST - 1, 3 * LEAST):
        values, packed = mixed(rng, count)
        here = decode_values(pool.decoder, values, packed, 1)
        same(asyncio.run(pool.decode(values, packed, 1)), here)
    assert here.rejects and len(here.batch) > count  # packed messages were among them
    assert {r.reason for r in here.rejects} >= {"json", "type", "arrow"}


def test_rows_can_be_written_to(pool):
    decoded = asyncio.run(pool.decode([event(1, tags=None)], [False], 0))
    assert all(getattr(decoded.batch, name).flags.writeable for name in ("features", "dense", "label"))


def test_a_process_that_dies_costs_no_row(pool):
    values = [event(i, tags=None) for i in range(3 * LEAST)]
    packed = [False] * len(values)
    here = decode_values(pool.decoder, values, packed, 0)
    before = pool.pids
    os.kill(before[0], signal.SIGKILL)
    same(asyncio.run(pool.decode(values, packed, 0)), here)
    assert pool.pids[0] != before[0] and pool.pids[1] == before[1]


def test_processes_end_with_their_pool():
    pool = DecodePool(EventDecoder(SPECS), 2)
    pids = pool.pids
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
@pytest.mark.broker
def test_every_row_arrives_once_and_in_order_while_processes_are_killed(streams):
    for topic in streams.topics.domains:
        streams.send(topic, [event(i) if i % 50 else b"{" for i in range(4000)])
    intake, letters = MemoryIntake(), MemoryDeadLetters()
    pool = DecodePool(streams.decoder, 2)
    killed = []

    async def main():
        app = StreamApp(
            streams.connection, streams.topics, streams.worker, streams.decoder, intake, letters, pool
        )
        async with running(app) as until:
            for k in range(4):
                await until(lambda k=k: sum(intake.positions.values()) >= 1500 * k)
                # The pool may not have replaced the process that was killed last time yet.
                await until(lambda k=k: pool.pids[k % 2] not in killed)
                killed.append(pool.pids[k % 2])
                os.kill(killed[-1], signal.SIGKILL)
            await until(lambda: sum(intake.positions.values()) == 8000)

    try:
        asyncio.run(main())
    finally:
        pool.close()
    assert len(set(killed)) == 4  # each was another process
    assert sum(letters.counts.values()) == 160
    for topic in streams.topics.domains:
        for partition, offsets in intake.offsets(topic).items():
            sent = np.arange(partition, 4000, streams.partitions)
            assert offsets == [o for o, i in enumerate(sent.tolist()) if i % 50]


NAMES_OF_THE_USERS_OWN = (
    "models/__init__.py",
    "events/__init__.py",
    "streams/__init__.py",
    "state.py",
    "serve.py",
    "numpy.py",
)


def test_processes_start_in_a_folder_that_holds_modules_of_the_same_names(tmp_path, monkeypatch):
    for name in NAMES_OF_THE_USERS_OWN:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('the module of the working folder was imported')\n")
    monkeypatch.chdir(tmp_path)
    decoder = EventDecoder(SPECS)
    pool = DecodePool(decoder, 1)
    try:
        values = [event(i, tags=None) for i in range(3)]
        same(asyncio.run(pool.decode(values, [False] * 3, 0)), decode_values(decoder, values, [False] * 3, 0))
    finally:
        pool.close()


def test_processes_import_neither_torch_nor_any_package_above_events():
    script = "import sys, ecdctr.streams.decoders; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not modules & {"torch", "faust", "aiokafka", "kafka", "rocksdict"}
    packages = {name.split(".")[1] for name in modules if name.startswith("ecdctr.")}
    assert packages == {"events", "state", "streams"}
