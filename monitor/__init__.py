"""What watches: model quality, drift, alerts and the dashboard."""
