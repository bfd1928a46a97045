"""State on disk: checkpoints, journal, TPM snapshots, row logs and locks; and the errors of the project."""
