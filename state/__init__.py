"""What is on disk: checkpoints, journal, TPM snapshots, row logs, locks, and the errors of the project."""
