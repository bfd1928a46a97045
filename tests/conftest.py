"""What holds for every test: limits, threads, order, and the fixtures of ``tests/support``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

pytest.register_assert_rewrite("tests.support")

from tests.support import groups  # noqa: E402
from tests.support.brokers import (  # noqa: E402
    apache_broker,  # noqa: F401
    broker,  # noqa: F401
    drop_other_brokers,
    embedded_broker,  # noqa: F401
    own_broker,  # noqa: F401
)
from tests.support.browser import browse, chromium  # noqa: E402, F401
from tests.support.disks import small_disk  # noqa: E402, F401

LONG_S = 4.0
"""Processor seconds from which a test should be marked ``slow``."""
_BEGAN = pytest.StashKey[float]()

# The clocks of hypothesis measure the machine's other work as well.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

for _noisy in ("kafka", "aiokafka", "faust", "mode"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results to the last bit are promised for a number of threads; one is the quickest on a shared machine."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world() -> Any:
    """Makes everything that a test of models needs, the same each time."""
    from tests.support.worlds import World  # torch is not imported for tests that do without it

    return World()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After pytest's own order, which puts all tests on one broker before those on the other."""
    drop_other_brokers(config, items)
    groups.arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Whole groups go to a process, in the order of :mod:`tests.support.groups`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return groups.group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


# -- tests that make `make quick` slow


def _processor_s() -> float:
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEGAN] = _processor_s()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        report.user_properties.append(("processor_s", _processor_s() - item.stash[_BEGAN]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names tests that should be marked slow: those of processes other than this one are counted with theirs."""
    long = {
        report.nodeid: seconds
        for report in terminalreporter.stats.get("passed", [])
        for name, seconds in report.user_properties
        if name == "processor_s"
        and seconds > LONG_S
        and not {"slow", "broker", "browser"} & set(report.keywords)
    }
    for nodeid, seconds in sorted(long.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"mark it slow: {nodeid} took {seconds:.1f} processor seconds")
