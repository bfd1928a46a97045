"""What comes in from Kafka: the Faust app and its agents, the worker, dead letters, producers."""
