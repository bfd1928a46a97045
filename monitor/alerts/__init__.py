"""Alert rules, the figures that they compare, and delivery to log, topic and webhook."""

from ecdctr.monitor.alerts.delivery import AlertDelivery, Send, webhook
from ecdctr.monitor.alerts.measurements import (
    of_detectors,
    of_drift,
    of_forgetting,
    of_release,
    of_transfer,
    of_window,
)
from ecdctr.monitor.alerts.rules import Alert, Measurement, RuleBook

__all__ = [
    "Alert",
    "AlertDelivery",
    "Measurement",
    "RuleBook",
    "Send",
    "of_detectors",
    "of_drift",
    "of_forgetting",
    "of_release",
    "of_transfer",
    "of_window",
    "webhook",
]
