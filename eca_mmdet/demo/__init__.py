"""The first run: a small detector on generated shapes, start to finish."""
