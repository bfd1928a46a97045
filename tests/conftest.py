"""Fixtures that every test may use."""

from tests.support.apache_kafka import apache_broker

__all__ = ["apache_broker"]
