"""The commands of the command line, one module each; a module is imported only when its command runs."""

__all__ = ["basic", "compare", "demo", "drift", "rebuild", "replay", "replay_arms", "replay_folder"]
