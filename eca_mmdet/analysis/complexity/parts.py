"""Run a detector part by part, on any device; the meta device needs no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet.utils.errors import UserError

Wrap = Callable[[str, Callable[[], Any]], Any]
"""Called with a part's name and what runs it."""


def run_parts(
    model: Any,
    shape: tuple[int, int],
    images: int,
    box_regions: int,
    mask_regions: int,
    wrap: Wrap = lambda name, run: run(),
) -> None:
    """Run backbone, neck and heads on empty input; not what lies between them.

    Args:
        model: a detector of mmdet with a dense head, or with an RPN and RoI heads.
        shape: height and width, in pixels.
        images: N of the input.
        box_regions: that the box head sees (each of a cascade's), of all images.
        mask_regions: that the mask head sees.
        wrap: runs each part.

    Raises:
        UserError: the detector is of another kind.
    """
    parameter = next(model.parameters())
    new = {'device': parameter.device, 'dtype': parameter.dtype}
    x: Any = torch.zeros(images, 3, *shape, **new)
    x = wrap('backbone', lambda: model.backbone(x))
    maps = x
    if getattr(model, 'with_neck', False):
        x = wrap('neck', lambda: model.neck(maps))
    heads = {name: getattr(model, name, None) for name in ('rpn_head', 'bbox_head')}
    for name, head in heads.items():
        if isinstance(head, nn.Module):
            _run_dense(name, head, x, wrap)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        for name, regions in (('bbox_head', box_regions), ('mask_head', mask_regions)):
            _run_roi(roi_head, name, x, regions, wrap)
    elif heads['bbox_head'] is None:
        raise UserError(
            f'{type(model).__name__} has neither a dense head nor RoI heads; only '
            'detectors of these two kinds are counted.',
            code='unsupported-model',
        )


def _run_dense(name: str, head: nn.Module, maps: Any, wrap: Wrap) -> None:
    wrap(name, lambda: head(maps))


def _run_roi(roi_head: Any, name: str, maps: Any, regions: int, wrap: Wrap) -> None:
    head = getattr(roi_head, name, None)
    extractor = getattr(roi_head, name.replace('head', 'roi_extractor'), None)
    if extractor is None:  # a mask head may share the box head's
        extractor = roi_head.bbox_roi_extractor
    if head is None:
        return
    heads = list(head) if isinstance(head, nn.ModuleList) else [head]
    many = isinstance(extractor, nn.ModuleList)
    extractors = list(extractor) if many else [extractor] * len(heads)
    for one, own in zip(heads, extractors, strict=True):
        side = own.roi_layers[0].output_size
        size = (side, side) if isinstance(side, int) else tuple(side)
        features: Tensor = maps[0].new_zeros(regions, own.out_channels, *size)
        if getattr(roi_head, 'with_shared_head', False):
            features = wrap(
                'roi_head.shared_head',
                lambda features=features: roi_head.shared_head(features),  # type: ignore[misc]
            )
        wrap(f'roi_head.{name}', lambda one=one, f=features: one(f))  # type: ignore[misc]
