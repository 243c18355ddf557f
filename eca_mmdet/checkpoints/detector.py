"""Whole-detector checkpoints: read safely, and refused where they do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eca_mmdet.utils.errors import MissingWeightsError, WeightsError

if TYPE_CHECKING:
    from eca_mmdet.checkpoints.io import WeightFile


def read_detector(checkpoint: str) -> dict[str, Any]:
    """Return the state dict of a detector checkpoint without running its code.

    Args:
        checkpoint: local path of what mmengine saved, or of a bare state dict.

    Raises:
        WeightsError: missing, truncated, not a checkpoint, or one that needs unsafe
            unpickling.
    """
    return read_checkpoint(checkpoint).state


def read_checkpoint(checkpoint: str) -> WeightFile:
    """Return all of a detector checkpoint; see :func:`read_detector`."""
    from eca_mmdet.checkpoints.io import read_weights

    try:
        return read_weights(checkpoint)
    except MissingWeightsError:
        raise MissingWeightsError(
            f'checkpoint {checkpoint!r} does not exist. Training leaves them in its '
            'work folder as epoch_N.pth or iter_N.pth.'
        ) from None


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
            f'{checkpoint} is not a checkpoint of this config. ' + '; '.join(faults)
        )


def require_converted(file: WeightFile) -> None:
    """Refuse a detector of MMDetection v1 as it came: its classes are ordered else.

    Raises:
        WeightsError: with the command that converts it.
    """
    from eca_mmdet.checkpoints.detector_kind import read_heads

    heads = read_heads(file.state, file.extras)
    if heads and heads.version == 'v1':
        raise WeightsError(
            f'{file.path} is a {heads.detector} of MMDetection v1, whose classes and '
            'layers are in another order than in 3.x. Convert it: eca-mmdet weights '
            f'convert {file.path} NEW.pth, and start from NEW.pth (docs/legacy.md).'
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
            f'checkpoint={checkpoint!r}).'
        )
    missing, _, shapes = _compare(state, model)
    lost = [name for name in missing + shapes if 'backbone.' in name]
    if lost:
        raise WeightsError(
            f'load_from={checkpoint} is of another backbone: {len(lost)} tensors would '
            f'stay random: {", ".join(lost[:3])}. See what it is: eca-mmdet weights '
            f'inspect {checkpoint}. Its backbone alone is loaded by '
            "model.backbone.init_cfg (type 'ECAPretrained', which may allow random "
            'gates).'
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
