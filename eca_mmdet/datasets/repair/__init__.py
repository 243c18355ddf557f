"""Repaired copies of annotation files."""
