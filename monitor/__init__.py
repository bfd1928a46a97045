"""What watches: windows, drift, forgetting, alerts, /metrics and the dashboard."""
