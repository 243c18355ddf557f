"""Detector checkpoints: their kind and version, and whether they fit a model.

Source: state dicts of MMDetection v0.6 to v1.2 (two-stage heads at the top, background
first) and of 2.x and 3.x (heads under ``roi_head``, background last).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eca_mmdet.utils.errors import WeightsError

if TYPE_CHECKING:
    from eca_mmdet.checkpoints.io import Checkpoint


@dataclass(frozen=True)
class Heads:
    """A detector without its backbone.

    Attributes:
        detector: 'Faster R-CNN', 'Mask R-CNN', 'Cascade R-CNN', 'Cascade Mask R-CNN',
            'RetinaNet', 'RPN' or 'detector'.
        version: 'v1', 'v2 or v3', 'v1, v2 or v3' (RetinaNet's names never changed) or
            what the file's metadata adds.
        classes: number of classes without background; None if the heads do not tell.
    """

    detector: str
    version: str
    classes: int | None


def read_heads(
    state: Mapping[str, Tensor], extras: Mapping[str, Any] | None = None
) -> Heads | None:
    """Read a detector's kind from names and shapes; None if there are no heads.

    Args:
        state: with 'backbone.' and the heads' names.
        extras: what lay beside it in the file; narrows the version where names cannot.
    """
    parts = {key.split('.')[0] for key in state}
    if 'backbone' not in parts or not parts & {
        'bbox_head',
        'roi_head',
        'rpn_head',
        'mask_head',
    }:
        return None
    if 'bbox_head.retina_cls.weight' in state or 'bbox_head.retina_cls.bias' in state:
        old_towers = 'bbox_head.cls_convs.0.weight' in state  # v0.6.0
        version = 'v1' if old_towers else _narrow('v1, v2 or v3', extras or {})
        return Heads('RetinaNet', version, _retina_classes(state))
    top = 'roi_head' not in parts and {'rpn_head', 'bbox_head'} <= parts
    prefix = '' if top else 'roi_head.'
    # Four rows for each class and background: v1's, wherever the head stands.
    old = top or any(
        key.endswith('.fc_cls.weight')
        and _rows(state.get(key.replace('fc_cls', 'fc_reg'))) == 4 * _rows(tensor)
        for key, tensor in state.items()
    )
    version = 'v1' if old else _narrow('v2 or v3', extras or {})
    cascade = any(key.startswith(f'{prefix}bbox_head.0.') for key in state)
    masks = any(key.startswith(f'{prefix}mask_head.') for key in state)
    if not any(key.startswith(f'{prefix}bbox_head.') for key in state):
        kind = 'RPN' if parts <= {'backbone', 'neck', 'rpn_head'} else 'detector'
        return Heads(kind, _narrow('v1, v2 or v3', extras or {}), None)
    family = 'Cascade ' if cascade else '' if masks else 'Faster '
    kind = f'{family}{"Mask " if masks else ""}R-CNN'
    head = f'{prefix}bbox_head.0' if cascade else f'{prefix}bbox_head'
    rows = _rows(state.get(f'{head}.fc_cls.weight'))
    return Heads(kind, version, rows - 1 if rows else None)


def _rows(tensor: Tensor | None) -> int:
    return tensor.shape[0] if tensor is not None and tensor.dim() else 0


def _retina_classes(state: Mapping[str, Tensor]) -> int | None:
    scores, boxes = (state.get(f'bbox_head.retina_{x}.weight') for x in ('cls', 'reg'))
    if scores is None or boxes is None or not scores.dim() or not boxes.dim():
        return None
    anchors = boxes.shape[0] // 4
    return scores.shape[0] // anchors if anchors else None


def _narrow(version: str, extras: Mapping[str, Any]) -> str:
    """Return the version that the metadata states, or ``version`` as it is."""
    meta = extras.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    if 'message_hub' in extras or 'mmengine_version' in meta:
        return 'v3'
    stated = str(meta.get('mmdet_version', ''))
    # mmdet 2.x wrote its own version; v1 did too, from 1.0rc0 on.
    return f'v{stated[0]}' if stated[:2] in ('1.', '2.', '3.') else version


def require_fit(state: dict[str, Any], model: Any, checkpoint: str) -> None:
    """Load a checkpoint into a model; refuse it unless every tensor finds its place.

    mmengine loads with ``strict=False``: a checkpoint of another detector leaves random
    weights behind a warning, and the test reports the AP of noise.

    Raises:
        WeightsError: naming the first tensors that are missing, extra or misshapen.
    """
    missing, extra, shapes = _compare(state, getattr(model, 'module', model))
    faults = [
        f'{len(names)} {title}: {", ".join(names[:3])}'
        for title, names in (
            ('tensors of the model are not in the file', missing),
            ('tensors of the file are not in the model', extra),
            ('tensors have another shape', shapes),
        )
        if names
    ]
    if faults:
        raise WeightsError(
            f'{checkpoint} is not a checkpoint of this config. ' + '; '.join(faults),
            code='checkpoint-mismatch',
        )


def require_converted(file: Checkpoint) -> None:
    """Reject an unconverted MMDetection v1 checkpoint: its class order differs.

    Raises:
        WeightsError: with the command that converts it.
    """
    heads = read_heads(file.state, file.extras)
    if heads and heads.version == 'v1':
        raise WeightsError(
            f'{file.path} is a {heads.detector} of MMDetection v1, whose classes and '
            'layers are in another order than in 3.x. Convert it: eca-mmdet weights '
            f'convert {file.path} NEW.pth, and start from NEW.pth (docs/legacy.md).',
            code='checkpoint-mismatch',
        )


def require_start(state: dict[str, Any], model: Any, checkpoint: str) -> list[str]:
    """Hold a detector to start from (``load_from``) against the model to be trained.

    Its backbone must be the model's, gates included; heads and neck may differ.

    Returns:
        The model's tensors that will start new, each with the reason.

    Raises:
        WeightsError: the file is no detector, or of another backbone.
    """
    model = getattr(model, 'module', model)
    if not any('backbone.' in key for key in state):
        raise WeightsError(
            f'load_from={checkpoint} is no detector: no tensor is named backbone.… '
            "Backbone weights go to model.backbone.init_cfg=dict(type='ECAPretrained', "
            f'checkpoint={checkpoint!r}).',
            code='checkpoint-mismatch',
        )
    missing, _, shapes = _compare(state, model)
    lost = [name for name in missing + shapes if 'backbone.' in name]
    if lost:
        raise WeightsError(
            f'load_from={checkpoint} is of another backbone: {len(lost)} tensors would '
            f'stay random: {", ".join(lost[:3])}. See what it is: eca-mmdet weights '
            f'inspect {checkpoint}. Its backbone alone is loaded by '
            "model.backbone.init_cfg (type 'ECAPretrained', which may allow random "
            'gates).',
            code='checkpoint-mismatch',
        )
    return [f'{name}: not in the file' for name in missing] + shapes


def _compare(
    state: dict[str, Any], model: Any
) -> tuple[list[str], list[str], list[str]]:
    """Load what fits; return names that are missing, extra, and of another shape."""
    own = model.state_dict()
    shapes = [
        f'{key} (file {tuple(state[key].shape)}, model {tuple(own[key].shape)})'
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    fitting |= {k: v for k, v in state.items() if k not in own}
    # A real load, since layers may rename the keys of older files on the way.
    found = model.load_state_dict(fitting, strict=False)
    missing = [
        key
        for key in found.missing_keys
        if key not in state and not key.endswith('num_batches_tracked')
    ]
    return missing, list(found.unexpected_keys), shapes
