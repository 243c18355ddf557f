"""Whole-detector checkpoints: read safely, and refused where they do not fit."""

from __future__ import annotations

from typing import Any

from eca_mmdet.errors import UserError


def read_detector(checkpoint: str) -> dict[str, Any]:
    """Return the state dict of a detector checkpoint without running its code.

    Args:
        checkpoint: local path of what mmengine saved, or of a bare state dict.

    Raises:
        UserError: missing, truncated, not a checkpoint, or one that needs unsafe
            unpickling.
    """
    import torch

    from eca_mmdet.weights.safe_globals import allow_mmengine_checkpoints

    allow_mmengine_checkpoints()
    try:
        content = torch.load(checkpoint, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f'checkpoint {checkpoint!r} does not exist. Training leaves them in its '
            'work folder as epoch_N.pth or iter_N.pth.'
        ) from None
    except Exception as error:  # torch raises a dozen types for broken files
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f'{checkpoint} cannot be read as a checkpoint (weights_only=True, so that '
            f'nothing in it is run): {reason}'
        ) from error
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(
            f"{checkpoint} is not a detector checkpoint: expected 'state_dict' with "
            f'tensors; got {_describe(content)}.'
        )
    return {key.removeprefix('module.'): value for key, value in state.items()}


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return f'a {type(content).__name__}'
    return f'a dict with {", ".join(map(str, list(content)[:5])) or "nothing"}'


def require_fit(state: dict[str, Any], model: Any, checkpoint: str) -> None:
    """Load a checkpoint into a model; refuse it unless every tensor finds its place.

    mmengine loads with ``strict=False``: a checkpoint of another detector leaves random
    weights behind a warning, and the test reports the AP of noise.

    Raises:
        UserError: names the first tensors that are missing, extra or of another shape.
    """
    model = getattr(model, 'module', model)
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
    extra = found.unexpected_keys
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
        raise UserError(
            f'{checkpoint} is not a checkpoint of this config. ' + '; '.join(faults)
        )
