"""What is kept: TPM snapshots (RocksDB), checkpoints, the journal, the ad window, the score log."""
