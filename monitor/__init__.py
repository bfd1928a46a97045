"""What watches: counters and the /metrics endpoint of a running worker."""
