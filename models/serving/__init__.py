"""Serving: which predictions the names of arms stand for, for training, replay and serving alike."""

from ecdctr.models.serving.scorer import Scorer

__all__ = ["Scorer"]
