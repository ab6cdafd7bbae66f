"""From conversations on disk to batches of token trees: all numpy, all on the host."""
