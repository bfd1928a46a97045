import os
from pathlib import Path

import pytest

from ecdctr.state.malloc import _malloc_trim, trim_memory


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(_malloc_trim is None, reason="another C library")
def test_free_pages_between_blocks_in_use_are_returned():
    blocks = [bytes(2000 + i % 7) for i in range(100_000)]
    kept = blocks[::50]
    del blocks
    before = resident()
    trim_memory()
    assert before - resident() > 100 * 2**20
    assert all(not any(block) for block in kept[::100])
