"""Checks of a replay for leakage: features known only after the click, and days that change a model's past."""

from ecdctr.replay.checks.day_check import DayCheck
from ecdctr.replay.checks.leakage import FeatureProbe
from ecdctr.replay.checks.run import checks

__all__ = ["DayCheck", "FeatureProbe", "checks"]
