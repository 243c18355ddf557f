"""Attention layers, backbones, necks and MMDetection v1 components."""
