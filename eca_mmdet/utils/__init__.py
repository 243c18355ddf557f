"""Errors, files and text."""
