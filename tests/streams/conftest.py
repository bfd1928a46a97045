import pytest

from tests.support.intakes import Streams


@pytest.fixture
def streams(broker) -> Streams:
    """Two topics of a test's own on the shared broker."""
    return Streams(broker)
