from collections.abc import Callable, Iterator

import pytest

from tests.support.dashboards import FakeMonitor, Site


@pytest.fixture
def fake_monitor() -> FakeMonitor:
    return FakeMonitor()


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """``make_site(monitor, **options of Dashboard)``; all are closed after the test."""
    sites: list[Site] = []

    def make(fake_monitor: FakeMonitor | None = None, **options) -> Site:
        sites.append(Site(fake_monitor, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.dashboard.close()
