"""The embedded broker for development and tests."""

from ecdctr.streams.embedded.broker import EmbeddedBroker
from ecdctr.streams.embedded.ports import free_port

__all__ = ["EmbeddedBroker", "free_port"]
