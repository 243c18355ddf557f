"""Detectors of MMDetection v1, renamed and reordered for 3.x.

Source: MMDetection v1.1.0 (commit 3839478) run beside 3.x. mmdet's own
``upgrade_model_version.py`` also reorders ``rpn_cls`` and ``retina_cls``, which have no
background in v1 either, and shifts the biases of ``fc_reg`` and ``conv_logits``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from eca_mmdet.checkpoints.detector import Heads
from eca_mmdet.checkpoints.key_maps import to_canonical
from eca_mmdet.utils.errors import WeightsError

_HEADS = ('bbox_head.', 'mask_head.')
_UNCHANGED = ('backbone.', 'neck.', 'rpn_head.')


def convert_v1(
    state: Mapping[str, Tensor], heads: Heads
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Convert a Faster, Mask, Cascade (Mask) R-CNN or RetinaNet of MMDetection v1.

    Args:
        state: all its tensors; no prefix before the names.
        heads: what it is; ``classes`` without background.

    Returns:
        The tensors for 3.x; source name to new name; source name to how its rows
        changed.

    Raises:
        WeightsError: a name or a shape that such a detector does not have.
    """
    unknown = to_canonical(dict(state)).unknown
    if unknown:
        raise WeightsError(
            f'{len(unknown)} tensors of the backbone are of no layer that is known '
            f'here: {", ".join(unknown[:3])}. Nothing was converted.',
            code='checkpoint-unrecognised',
        )
    _check_heads(state, heads)
    converted, mapped, changed = {}, {}, {}
    for key, tensor in state.items():
        name = _rename(key, heads)
        new, how = _reorder(key, tensor, heads)
        converted[name], mapped[key] = new, name
        if how:
            changed[key] = how
    return converted, mapped, changed


def _check_heads(state: Mapping[str, Tensor], heads: Heads) -> None:
    """Refuse two-stage heads that v1 cannot have written, or 3.x cannot compute."""
    if heads.detector == 'RetinaNet':
        return
    if not heads.classes:
        raise WeightsError(
            f'a {heads.detector} without bbox_head.fc_cls: its classes cannot be told. '
            'Nothing was converted.',
            code='checkpoint-unrecognised',
        )
    for key, tensor in state.items():
        if not (_in_head(key) and key.endswith('.bias')):
            continue
        weight = state.get(f'{key[:-4]}weight')
        layer = key.split('.')[-2]
        if layer in ('fc_cls', 'fc_reg', 'conv_logits') and (
            weight is None or len(weight) != len(tensor)
        ):
            raise WeightsError(
                f'{key} has {len(tensor)} rows, its weight another number. Nothing '
                'was converted.',
                code='checkpoint-unrecognised',
            )
        if 'Cascade' in heads.detector and layer == 'fc_reg' and len(tensor) != 4:
            raise WeightsError(
                f'{key}: a Cascade R-CNN whose boxes differ by class refines with '
                "background's boxes in v1, which 3.x does not have. Nothing was "
                'converted.',
                code='checkpoint-unrecognised',
            )


def _in_head(key: str) -> bool:
    return key.removeprefix('roi_head.').startswith(_HEADS)


def _rename(key: str, heads: Heads) -> str:
    if heads.detector == 'RetinaNet' and key.startswith('bbox_head.'):
        # v0.6.0 had bare convolutions in its towers.
        return re.sub(r'((?:cls|reg)_convs\.\d+)\.(weight|bias)$', r'\1.conv.\2', key)
    if key.startswith(_UNCHANGED):
        return key
    if heads.detector != 'RetinaNet' and key.startswith(_HEADS):
        return f'roi_head.{key}'
    if heads.detector != 'RetinaNet' and key.startswith('roi_head.'):
        return key  # somebody moved the heads already, and left their rows
    raise WeightsError(
        f'{key} is no part of a {heads.detector} of MMDetection v1 (backbone, neck, '
        'rpn_head, bbox_head, mask_head). Nothing was converted.',
        code='checkpoint-unrecognised',
    )


def _reorder(key: str, tensor: Tensor, heads: Heads) -> tuple[Tensor, str]:
    """Return a tensor with background where 3.x has it, and what was done.

    v1 counts background as class 0; 3.x as the last class of the scores, and not at
    all in boxes and masks.
    """
    if heads.detector == 'RetinaNet' or not _in_head(key):
        return tensor, ''
    layer = key.split('.')[-2]
    classes = heads.classes or 0
    rows = tensor.shape[0] if tensor.dim() else 0
    if layer == 'fc_cls':
        _require(key, rows, classes + 1)
        return torch.cat([tensor[1:], tensor[:1]]), 'background moved to the last row'
    if layer == 'fc_reg' and rows != 4:  # 4 rows serve all classes
        _require(key, rows, 4 * (classes + 1))
        return tensor[4:].clone(), "background's 4 rows dropped"
    if layer == 'conv_logits' and rows != 1:
        _require(key, rows, classes + 1)
        return tensor[1:].clone(), "background's channel dropped"
    return tensor, ''


def _require(key: str, rows: int, expected: int) -> None:
    if rows != expected:
        raise WeightsError(
            f'{key} has {rows} rows; with the classes of fc_cls, MMDetection v1 has '
            f'{expected}. Nothing was converted.',
            code='checkpoint-unrecognised',
        )
