"""Impressions and clicks that arrive apart become labelled rows: the rule, its state and its counts, without Kafka or files."""

from ecdctr.events.join.columns import (
    CLICKED,
    CORRECTION,
    EARLY_NEGATIVE,
    NOT_CLICKED,
    JoinedRows,
    JoinEvents,
)
from ecdctr.events.join.delays import DelayHistogram, WindowChoice, suggest_windows
from ecdctr.events.join.fates import CLICK_FATES, FATES, IMPRESSION_FATES, REMARKS
from ecdctr.events.join.joiner import Joined, Joiner
from ecdctr.events.join.keys import KEY_FIELDS, pair_key, read_keys
from ecdctr.events.join.lanes import IdleDecision
from ecdctr.events.join.rocks_state import RocksState
from ecdctr.events.join.settings import JoinSettings
from ecdctr.events.join.state import JoinState, MemoryState, Records
from ecdctr.events.join.weights import sample_weights

__all__ = [
    "CLICKED",
    "CLICK_FATES",
    "CORRECTION",
    "EARLY_NEGATIVE",
    "FATES",
    "IMPRESSION_FATES",
    "KEY_FIELDS",
    "NOT_CLICKED",
    "REMARKS",
    "DelayHistogram",
    "IdleDecision",
    "JoinEvents",
    "JoinSettings",
    "JoinState",
    "Joined",
    "JoinedRows",
    "Joiner",
    "MemoryState",
    "Records",
    "RocksState",
    "WindowChoice",
    "pair_key",
    "read_keys",
    "sample_weights",
    "suggest_windows",
]
