"""Dead letters: rejected records with their reason, origin and original bytes."""

from ecdctr.streams.dead_letters.letter import DeadLetter, letters_of
from ecdctr.streams.dead_letters.sender import DeadLetters, DeadLetterSink, MemoryDeadLetters

__all__ = ["DeadLetter", "DeadLetterSink", "DeadLetters", "MemoryDeadLetters", "letters_of"]
