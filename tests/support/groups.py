"""Which tests run in one process, one after another, and in which order they start.

A file is a group, so that its module fixtures are built once. Exceptions are named here: long files whose tests share
nothing are split into single tests, and files that share an expensive fixture are one group. pytest-xdist's own mark
``xdist_group`` has no effect with pytest 9.2, which no longer reads the node ids that pytest-xdist 3.8 writes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import pytest

SPLIT = {
    "tests/chaos/test_chaos.py",
    "tests/e2e/test_ownership.py",
    "tests/e2e/test_live_tpm.py",
    "tests/e2e/test_full_disk.py",
    "tests/models/training/test_arms.py",
    "tests/models/training/test_gate.py",
    "tests/models/training/test_learning.py",
    "tests/models/training/test_trainer.py",
    "tests/streams/test_decoders.py",
}
"""Files of long tests that share no module fixture: each test is a group."""

TOGETHER = {
    "tests/e2e/test_audit.py": "killed",
    "tests/e2e/test_damaged_checkpoint.py": "killed",
    "tests/monitor/dashboard/test_page.py": "browser",
    "tests/replay/report/test_report_in_browser.py": "browser",
}
"""Files that share a session fixture that is worth sharing, and the name of their group."""

LONGEST_FIRST = (
    "tests/e2e/test_start_up.py",
    "tests/chaos/test_chaos.py",
    "tests/e2e/test_ownership.py",
    "tests/ecdctr/commands/test_replay.py",
    "tests/e2e/test_broker_away.py",
    "tests/e2e/test_audit.py",
    "tests/e2e/test_damaged_checkpoint.py",
    "tests/ecdctr/studies/test_evidence.py",
    "tests/replay/report/test_html.py",
    "tests/ecdctr/commands/test_requested_arms.py",
    "tests/ecdctr/commands/test_replay_slices.py",
    "tests/e2e/test_live.py",
    "tests/compat/test_old_state.py",
    "tests/e2e/test_live_tpm.py",
    "tests/package/test_wheel.py",
    "tests/models/tpm/test_live.py",
    "tests/monitor/dashboard/test_page.py",
    "tests/replay/report/test_report_in_browser.py",
    "tests/e2e/",
    "tests/ecdctr/commands/",
    "tests/models/training/",
    "tests/streams/",
)
"""Groups that start first, so that no long group is the last one running; the others follow in their usual order."""

BROKER_FIXTURES = {"broker", "own_broker", "embedded_broker", "apache_broker"}
BROWSER_FIXTURES = {"chromium"}
BROKER_TIMEOUT_S = 600
"""Instead of pytest's 300: the first test of a process also starts the brokers."""


def group_of(nodeid: str) -> str:
    """The group of a test; one process runs all tests of a group.

    The tests of a file that run on Apache Kafka are a group of their own: they share nothing with those on the embedded
    broker.
    """
    path, _, rest = nodeid.partition("::")
    if path in SPLIT:
        return nodeid
    group = TOGETHER.get(path, path)
    return f"{group}[apache]" if "apache" in re.split(r"[\[\]-]", rest) else group


def arrange(items: list[pytest.Item]) -> None:
    """Add the marks that follow from fixtures, and sort: the longest groups first, doctests last.

    Raises
    ------
    pytest.UsageError
        A module fixture of a split file: it would be built once for each process.
    """
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & BROKER_FIXTURES:
            item.add_marker("broker")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(BROKER_TIMEOUT_S))
        if names & BROWSER_FIXTURES:
            item.add_marker("browser")
    _check_split_files(items)
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    path = item.nodeid.partition("::")[0]
    if isinstance(item, pytest.DoctestItem):
        return len(LONGEST_FIRST) + 1
    return next((i for i, first in enumerate(LONGEST_FIRST) if path.startswith(first)), len(LONGEST_FIRST))


def _check_split_files(items: Sequence[pytest.Item]) -> None:
    """A module fixture of a split file would be built once for each test."""
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in items:
        if not isinstance(item, pytest.Function) or item.nodeid.partition("::")[0] not in SPLIT:
            continue
        for name, definitions in item._fixtureinfo.name2fixturedefs.items():
            if definitions[-1].scope == "module":
                groups[definitions[-1].baseid, name].add(group_of(item.nodeid))
    if twice := [f"{path}::{name}" for (path, name), found in groups.items() if len(found) > 1]:
        raise pytest.UsageError(
            f"module fixtures of split files: {', '.join(twice)}; take the file out of SPLIT in tests/support/groups.py"
        )
