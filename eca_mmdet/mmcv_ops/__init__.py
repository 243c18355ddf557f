"""Operators: torchvision's kernels behind the interface of mmcv's extension."""
