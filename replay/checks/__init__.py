"""Checks of a replay for leakage: features known only after the click, and days that change a model's past."""

from ecdctr.replay.checks.day_check import DayCheck
from ecdctr.replay.checks.leakage import FeatureProbe
from ecdctr.replay.checks.run import CheckResult, checks

__all__ = ["CheckResult", "DayCheck", "FeatureProbe", "checks"]
