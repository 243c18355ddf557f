"""Whole-detector checkpoints: read safely, and refused where they do not fit."""

from __future__ import annotations

from typing import Any

from eca_mmdet.errors import MissingWeightsError, WeightsError


def read_detector(checkpoint: str) -> dict[str, Any]:
    """Return the state dict of a detector checkpoint without running its code.

    Args:
        checkpoint: local path of what mmengine saved, or of a bare state dict.

    Raises:
        WeightsError: missing, truncated, not a checkpoint, or one that needs unsafe
            unpickling.
    """
    from eca_mmdet.weights.files import read_weights

    try:
        return read_weights(checkpoint).state
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
        raise WeightsError(
            f'{checkpoint} is not a checkpoint of this config. ' + '; '.join(faults)
        )
