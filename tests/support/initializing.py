"""``ECAPretrained`` as a detector calls it."""

import pytest
import torch

from eca_mmdet.utils.errors import WeightsError


def init(model, checkpoint, **arguments):
    """Initialise as a detector does, through mmengine's init_cfg."""
    model.init_cfg = dict(type='ECAPretrained', checkpoint=str(checkpoint), **arguments)
    model.init_weights()
    return model


def refuses(model, file, part, **arguments):
    """Loading must fail with a message, and leave the model as it was."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match=part) as caught:
        init(model, file, **arguments)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(caught.value)
