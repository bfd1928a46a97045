"""Streaming features: counts, click rates and recency of users, items and pairs, computed from the streams that are learned."""

from ecdctr.models.streaming_features.columns import StreamingColumns
from ecdctr.models.streaming_features.features import StreamingFeatures, extended_specs

__all__ = ["StreamingColumns", "StreamingFeatures", "extended_specs"]
