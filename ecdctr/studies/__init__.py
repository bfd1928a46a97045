"""Studies over many replays: the evidence for the default model, and forgetting."""
