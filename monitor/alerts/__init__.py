"""Alert rules, the metrics that they compare, and delivery to the log, a topic and a webhook."""

from ecdctr.monitor.alerts.delivery import AlertDelivery, Send, webhook
from ecdctr.monitor.alerts.measurements import Inputs, measure
from ecdctr.monitor.alerts.pending import PendingAlerts
from ecdctr.monitor.alerts.rules import Alert, AlertRecord, Measurement, RuleBook

__all__ = [
    "Alert",
    "AlertDelivery",
    "AlertRecord",
    "Inputs",
    "Measurement",
    "PendingAlerts",
    "RuleBook",
    "Send",
    "measure",
    "webhook",
]
