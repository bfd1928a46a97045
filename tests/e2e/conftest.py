"""Fixtures of the tests with worker processes; elsewhere their imports would cost more than the tests."""

from tests.support.sites import killed, site

__all__ = ["killed", "site"]
