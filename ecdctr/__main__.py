"""``python -m ecdctr``."""

from ecdctr.cli import main

main()
