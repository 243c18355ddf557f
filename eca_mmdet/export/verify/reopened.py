"""A written file as its user opens it: what its metadata make of images and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.export.onnx.session import open_onnx
from eca_mmdet.export.preprocess import prepare
from eca_mmdet.utils.errors import RunError

_SIDES = ((90, 160), (160, 90))
"""Height and width of an image that lies, and of one that stands."""


def require_same_input(path: Path, trained: Any) -> None:
    """Compare what goes into the network: the file's images and the config's.

    Args:
        path: of the file of a whole detector.
        trained: a :class:`~eca_mmdet.inference.detector.ECADetector`.

    Raises:
        UserError: the file cannot be opened.
        RunError: its metadata say something else than the detector does.
    """
    file = open_onnx(str(path), threads=1)
    if file.classes != tuple(trained.classes):
        raise RunError(
            f'the file has the classes {", ".join(file.classes)}; the detector has '
            f'{", ".join(trained.classes)}.'
        )
    rule = replace(file.rule, size=None)  # a config has no input of one size
    random = np.random.default_rng(0)
    for height, width in _SIDES:
        image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        found = prepare(image, rule)
        images, size = trained.prepared(image)
        same = np.array_equal(found.images, images.cpu().numpy())
        if not same or found.sizes.tolist() != [list(size)]:
            raise RunError(
                f'of an image of {width} x {height} the metadata of the file make '
                'another input than the test pipeline of the config.'
            )
