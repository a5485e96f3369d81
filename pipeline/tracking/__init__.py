"""Records of a training: the ledger, metric names, W&B."""
