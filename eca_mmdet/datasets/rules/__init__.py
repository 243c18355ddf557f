"""Faults of annotation files: what each means, how it is found and fixed."""
