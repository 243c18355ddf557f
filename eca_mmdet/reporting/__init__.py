"""What a training run left behind, read for a page about it."""
