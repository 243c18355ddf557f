"""Checks before long work."""
