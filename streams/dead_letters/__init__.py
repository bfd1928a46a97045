"""Dead letters: rejected records with their reason, origin and original bytes."""

from ecdctr.streams.dead_letters.letter import ROLLED_BACK, DeadLetter, letters_of
from ecdctr.streams.dead_letters.sender import DeadLetters, DeadLetterSink, MemoryDeadLetters

__all__ = ["ROLLED_BACK", "DeadLetter", "DeadLetterSink", "DeadLetters", "MemoryDeadLetters", "letters_of"]
