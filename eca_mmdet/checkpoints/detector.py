"""Detector checkpoints: kind and version, fit to a model, conversion from v1 to 3.x.

Source: state dicts of MMDetection v0.6 to v1.2 (two-stage heads at the top, background
first) and of 2.x and 3.x (heads under ``roi_head``, background last); v1.1.0 (commit
3839478) run beside 3.x. mmdet's own ``upgrade_model_version.py`` also reorders
``rpn_cls`` and ``retina_cls``, which have no background in v1 either, and shifts the
biases of ``fc_reg`` and ``conv_logits``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import first

if TYPE_CHECKING:
    from eca_mmdet.checkpoints.io import Checkpoint

_ROWS = {'fc_cls': 1, 'fc_reg': 4, 'conv_logits': 1}
"""Rows of each class, and in v1 of background, in the layers of two-stage heads."""


@dataclass(frozen=True)
class Heads:
    """A detector without its backbone."""

    detector: str  # 'Cascade Mask R-CNN', 'RetinaNet', 'RPN', 'detector', ...
    # 'v1', 'v2 or v3' or 'v1, v2 or v3' (RetinaNet's names never changed), narrowed by
    # the file's metadata.
    version: str
    classes: int | None  # without background; None where the heads do not show it

    @property
    def title(self) -> str:
        """'Faster R-CNN of MMDetection v1' and the like."""
        return f'{self.detector} of MMDetection {self.version}'


def read_heads(
    state: Mapping[str, Tensor], extras: Mapping[str, Any] | None = None
) -> Heads | None:
    """Read a detector's kind from names and shapes; None without heads.

    ``extras``, the entries beside the tensors, narrow the version.
    """
    parts = {key.split('.')[0] for key in state}
    heads = {'bbox_head', 'roi_head', 'rpn_head', 'mask_head'}
    if 'backbone' not in parts or not parts & heads:
        return None
    stated = _stated_version(extras or {})
    if 'bbox_head.retina_cls.weight' in state or 'bbox_head.retina_cls.bias' in state:
        old_towers = 'bbox_head.cls_convs.0.weight' in state  # v0.6.0
        version = 'v1' if old_towers else stated or 'v1, v2 or v3'
        anchors = size_of(state.get('bbox_head.retina_reg.weight')) // 4
        rows = size_of(state.get('bbox_head.retina_cls.weight'))
        classes = rows // anchors if rows and anchors else None
        return Heads('RetinaNet', version, classes)
    top = 'roi_head' not in parts and {'rpn_head', 'bbox_head'} <= parts
    prefix = '' if top else 'roi_head.'
    # Four rows for each class and background: v1's, wherever the head stands.
    old = top or any(
        key.endswith('.fc_cls.weight')
        and size_of(state.get(key.replace('fc_cls', 'fc_reg'))) == 4 * size_of(tensor)
        for key, tensor in state.items()
    )
    version = 'v1' if old else stated or 'v2 or v3'
    boxes, cascade, masks = (
        any(key.startswith(f'{prefix}{head}.') for key in state)
        for head in ('bbox_head', 'bbox_head.0', 'mask_head')
    )
    if not boxes:
        kind = 'RPN' if parts <= {'backbone', 'neck', 'rpn_head'} else 'detector'
        return Heads(kind, stated or 'v1, v2 or v3', None)
    kind = 'Mask R-CNN' if masks else 'R-CNN' if cascade else 'Faster R-CNN'
    head = f'{prefix}bbox_head.0' if cascade else f'{prefix}bbox_head'
    rows = size_of(state.get(f'{head}.fc_cls.weight'))
    return Heads('Cascade ' * cascade + kind, version, rows - 1 if rows else None)


def size_of(tensor: Tensor | None, axis: int = 0) -> int:
    """Return the size along an axis; 0 without a tensor or axes."""
    return tensor.shape[axis] if tensor is not None and tensor.dim() else 0


def _stated_version(extras: Mapping[str, Any]) -> str:
    """Return the version that the metadata states, or ''."""
    meta = extras.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    if 'message_hub' in extras or 'mmengine_version' in meta:
        return 'v3'
    stated = str(meta.get('mmdet_version', ''))
    # mmdet 2.x wrote its own version; v1 did too, from 1.0rc0 on.
    return f'v{stated[0]}' if stated[:2] in ('1.', '2.', '3.') else ''


def require_fit(state: dict[str, Any], model: Any, checkpoint: str) -> None:
    """Load a checkpoint into a model; raise unless every tensor has its place.

    mmengine loads with ``strict=False``: a checkpoint of another detector leaves random
    weights behind a warning, and the test reports the AP of noise.
    """
    missing, extra, shapes = _compare(state, getattr(model, 'module', model))
    faults = counted(
        (missing, 'of the model are not in the file'),
        (extra, 'of the file are not in the model'),
        (shapes, 'have another shape'),
    )
    if faults:
        raise WeightsError(
            f'{checkpoint} is not a checkpoint of this config. ' + '; '.join(faults),
            code='checkpoint-mismatch',
        )


def counted(*problems: tuple[list[str], str]) -> list[str]:
    """Return a sentence for each list with tensors: their number and first names."""
    return [
        f'{len(keys)} tensors {title}: {first(keys)}'
        for keys, title in problems
        if keys
    ]


def require_converted(file: Checkpoint) -> None:
    """Reject an unconverted MMDetection v1 checkpoint: its class order differs."""
    heads = read_heads(file.state, file.extras)
    if heads and heads.version == 'v1':
        raise WeightsError(
            f'{file.path} is a {heads.title}, whose classes and layers are in another '
            'order than in 3.x. Convert it: eca-mmdet weights convert '
            f'{file.path} NEW.pth, and start from NEW.pth (docs/legacy.md).',
            code='checkpoint-mismatch',
        )


def require_start(state: dict[str, Any], model: Any, checkpoint: str) -> list[str]:
    """Return the tensors that a model trained from a detector starts new, with reasons.

    The file's backbone must be the model's, gates included; heads and neck may differ.
    """
    model = getattr(model, 'module', model)
    if not any('backbone.' in key for key in state):
        raise WeightsError(
            f'load_from={checkpoint} is not a detector: no tensor is named backbone.… '
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
            f'inspect {checkpoint}. Only its backbone is loaded by '
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
    fitting = {
        k: v for k, v in state.items() if k not in own or v.shape == own[k].shape
    }
    # A real load, since layers may rename the keys of older files on the way.
    found = model.load_state_dict(fitting, strict=False)
    missing = [
        key
        for key in found.missing_keys
        if key not in state and not key.endswith('num_batches_tracked')
    ]
    return missing, list(found.unexpected_keys), shapes


def convert_v1(
    state: Mapping[str, Tensor], heads: Heads
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Convert a Faster, Mask, Cascade (Mask) R-CNN or RetinaNet of MMDetection v1.

    Returns the tensors for 3.x, source name to new name, and source name to how its
    rows changed.
    """
    two_stage = heads.detector != 'RetinaNet'
    if two_stage and not heads.classes:
        raise _not_v1(
            f'a {heads.detector} without bbox_head.fc_cls, so that its number of '
            'classes is unknown'
        )
    unchanged = ('backbone.', 'neck.', 'rpn_head.', *['roi_head.'] * two_stage)
    converted, mapped, changed = {}, {}, {}
    for key, tensor in state.items():
        name, how = key, ''
        head = key.removeprefix('roi_head.')  # moved already, with the rows of v1
        if two_stage and head.startswith(('bbox_head.', 'mask_head.')):
            name = f'roi_head.{head}'
            tensor, how = _reorder(key, state, heads)
        elif not two_stage and key.startswith('bbox_head.'):
            # v0.6.0 had bare convolutions in its towers.
            towers = r'((?:cls|reg)_convs\.\d+)\.(weight|bias)$'
            name = re.sub(towers, r'\1.conv.\2', key)
        elif not key.startswith(unchanged):
            raise _not_v1(
                f'{key} is not part of a {heads.detector} of MMDetection v1 (backbone, '
                'neck, rpn_head, bbox_head, mask_head)'
            )
        converted[name], mapped[key] = tensor, name
        if how:
            changed[key] = how
    return converted, mapped, changed


def _reorder(key: str, state: Mapping[str, Tensor], heads: Heads) -> tuple[Tensor, str]:
    """Return a tensor with background where 3.x has it, and what was done.

    v1 counts background as class 0; 3.x as the last class of the scores, and not at
    all in boxes and masks. Rejects rows that v1 cannot have written.
    """
    tensor, layer = state[key], key.split('.')[-2]
    rows, own = size_of(tensor), _ROWS.get(layer)
    if own is None:
        return tensor, ''
    if key.endswith('.bias') and rows != size_of(state.get(f'{key[:-4]}weight')):
        raise _not_v1(f'{key} has {rows} rows, its weight another number')
    if 'Cascade' in heads.detector and layer == 'fc_reg' and rows != own:
        raise _not_v1(
            f'{key}: a Cascade R-CNN whose boxes differ by class refines with '
            "background's boxes in v1, which 3.x does not have"
        )
    if rows == own and layer != 'fc_cls':  # they serve all classes
        return tensor, ''
    expected = own * ((heads.classes or 0) + 1)
    if rows != expected:
        raise _not_v1(
            f'{key} has {rows} rows; with the classes of fc_cls, MMDetection v1 has '
            f'{expected}'
        )
    if layer == 'fc_cls':
        return tensor.roll(-1, 0), 'background moved to the last row'
    what = '4 rows' if layer == 'fc_reg' else 'channel'
    return tensor[own:].clone(), f"background's {what} dropped"


def _not_v1(reason: str) -> WeightsError:
    message = f'{reason}. Nothing was converted.'
    return WeightsError(message, code='checkpoint-unrecognised')
