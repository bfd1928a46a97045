"""The models: networks, arms, TPM, and the training loop that live training and replay share."""
