"""Pretrained weights and checkpoints: read safely, loaded completely."""
