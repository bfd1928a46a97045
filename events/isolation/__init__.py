"""Decoding in child processes: a message that ends its reader ends a child, not the worker."""

from ecdctr.events.isolation.guard import guard_packed
from ecdctr.events.isolation.process import DecodingProcess

__all__ = ["DecodingProcess", "guard_packed"]
