"""What a worker imports; the server that forks workers imports this module once."""

from __future__ import annotations

import os

os.environ["COLUMNS"] = "2000"  # read when a console is made, which the modules below do

import ecdctr.cli
import ecdctr.streams.worker  # noqa: F401
