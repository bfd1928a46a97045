"""The embedded broker for development and tests."""

from ecdctr.streams.embedded.broker import EmbeddedBroker

__all__ = ["EmbeddedBroker"]
