"""What is played back: log sources, event-time alignment, progressive validation, metrics, reports."""
