"""What comes in: topics, the Faust app and its agents, dead letters, producers, the embedded broker."""
