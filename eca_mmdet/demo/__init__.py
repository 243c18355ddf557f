"""Demo: a small detector on generated shapes, and a comparison of mechanisms."""
