"""The command line: ``ecdctr --help``."""

from ecdctr.cli.app import app, main

__all__ = ["app", "main"]
