"""The Kafka side: the Faust app and its agents, the worker, dead letters, producers, the embedded broker."""
