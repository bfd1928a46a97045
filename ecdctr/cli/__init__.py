"""The command line: ``ecdctr --help``."""

from ecdctr.cli.app import app, main, run

__all__ = ["app", "main", "run"]
