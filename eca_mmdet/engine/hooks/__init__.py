"""Training hooks: fine-tuning, a changed batch, the state to resume from."""
