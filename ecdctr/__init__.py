"""The front door: command line, configuration, the demo."""
