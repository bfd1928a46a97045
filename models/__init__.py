"""What learns: Batch and features, TPM, CPM and A-CTR, transfer, optimisers, the trainer."""
