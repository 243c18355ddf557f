"""Configs, checks before work, training that resumes exactly, and testing."""
