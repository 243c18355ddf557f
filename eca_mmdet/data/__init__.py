"""Data sets: the generated shapes of the demo."""
