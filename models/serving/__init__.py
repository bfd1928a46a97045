"""Serving: which predictions an arm's name selects; training, replay and serving use the same rule."""

from ecdctr.models.serving.scorer import Scorer

__all__ = ["Scorer"]
