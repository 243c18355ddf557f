"""Narrow detectors with gates, and images for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from tests.support.attention_cases import randomise


def write_images(folder):
    """Noise with a bright corner; the second and third are not square."""
    random = np.random.default_rng(0)
    for name, (height, width) in {'a': (96, 96), 'b': (48, 96), 'c': (80, 50)}.items():
        image = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
        image[:20, :30, 1] += 130
        cv2.imwrite(str(folder / f'{name}.png'), image)
    return sorted(folder.iterdir())


def build(attention, depth=18, change=None):
    """A narrow RetinaNet with random weights."""
    from mmdet.registry import MODELS

    from eca_mmdet.demo import run as demo
    from eca_mmdet.inference.detector import ECADetector

    cfg = demo.compose('retinanet', attention, depth, Path('data'), 0)
    if change:
        change(cfg)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    for _, gate in gates_of(model):
        randomise(gate)
    model.train(False)
    return ECADetector('detector.pth', cfg, model, ('circle',))


def gates_of(model):
    from eca_mmdet.models.attention import Gate

    return [one for one in model.named_modules() if isinstance(one[1], Gate)]
