"""Propose how long to train, and on how many images at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

IMAGES = 24_000
"""To show from an ImageNet backbone on: 3,000 steps of the paper's 8 images. A rule of
thumb, not a measurement."""

IMAGES_FROM_DETECTOR = 8_000
"""The same, from a trained detector on."""

LEAST_EPOCHS, LEAST_FROM_DETECTOR, MOST_EPOCHS = 12, 6, 100
"""12 is the paper's number for COCO's 118,287 images."""

MOST_IMAGES_A_STEP = 16
VALIDATIONS = 12
WARMUP_STEPS = 500
"""As in the paper's recipe; a tenth of a training that is shorter than 5,000 steps."""

_RESERVE = 0.7
"""Share of the memory to plan with: weights and allocators need the rest."""


@dataclass(frozen=True)
class Schedule:
    """The course of a training.

    Attributes:
        epochs: passes over the images.
        milestones: epochs after which the learning rate is divided by ten, at two
            thirds and eleven twelfths as in the paper (8 and 11 of 12).
        warmup: steps of rising learning rate.
        interval: epochs between validations and checkpoints.
        why: one line.
    """

    epochs: int
    milestones: tuple[int, int]
    warmup: int
    interval: int
    why: str


def propose(
    images: int, batch: int, from_detector: bool, epochs: int | None = None
) -> Schedule:
    """Return the course for a data set.

    Args:
        images: that are trained on.
        batch: images a step.
        from_detector: the start is a trained detector, not a backbone.
        epochs: chosen by the user.
    """
    shown = IMAGES_FROM_DETECTOR if from_detector else IMAGES
    least = LEAST_FROM_DETECTOR if from_detector else LEAST_EPOCHS
    start = 'a detector' if from_detector else 'a backbone'
    wanted = min(max(math.ceil(shown / images), least), MOST_EPOCHS)
    why = (
        f'about {shown:,} images from {start} on, at least {least} epochs and at most '
        f'{MOST_EPOCHS}; there are {images:,}'
    )
    if epochs is not None:
        wanted, why = epochs, 'as asked'
    steps = wanted * math.ceil(images / batch)
    first = max(1, round(wanted * 8 / 12))
    return Schedule(
        wanted,
        (first, max(first + 1, round(wanted * 11 / 12))),
        max(1, min(WARMUP_STEPS, steps // 10)),
        max(1, wanted // VALIDATIONS),
        why,
    )


def propose_batch(cfg: Any, shape: tuple[int, int]) -> tuple[int, str]:
    """Return how many images a step fit into this machine, and why.

    Without a GPU the config's number stays: more at once would not be faster.

    Args:
        cfg: the config, whose model can be built without memory.
        shape: height and width of a large image, in pixels.
    """
    import torch

    own = int(cfg.train_dataloader.get('batch_size') or 2)
    if not torch.cuda.is_available():
        return own, "the config's own: PyTorch sees no GPU"
    needed = _bytes_an_image(cfg, shape)
    if needed is None:
        return own, "the config's own: what a step needs cannot be counted"
    # All of it, not what is free now: the same data give the same config again.
    _, memory = torch.cuda.mem_get_info()
    fit = int(_RESERVE * memory // needed)
    batch = 2 ** int(math.log2(min(max(fit, 1), MOST_IMAGES_A_STEP)))
    gib = 2**30
    return batch, (
        f'{fit} images of {needed / gib:.1f} GiB fit into {_RESERVE:.0%} of '
        f'{memory / gib:.1f} GiB'
    )


def _bytes_an_image(cfg: Any, shape: tuple[int, int]) -> float | None:
    """Return what a training step keeps for backward, by image."""
    from eca_mmdet.analysis.exact_cost import exact_cost
    from eca_mmdet.engine.config import build_model
    from eca_mmdet.utils.errors import UserError

    try:
        cost = exact_cost(build_model(cfg, 'meta'), cfg, shape)
    except UserError:
        return None
    return cost.total.saved_bytes / cost.images
