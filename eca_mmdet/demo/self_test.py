"""Self-test of an installation: a training step and a prediction of a tiny detector.

Run by path in a subprocess. Prints a JSON line for each device.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

SIDE_PX = 96


def tiny_detector() -> Any:
    """Build the demo's Mask R-CNN at half its width."""
    import torch

    from eca_mmdet.catalog.configs import config_root
    from eca_mmdet.demo.config import FILES
    from eca_mmdet.engine.config import build_model, load_config

    cfg = load_config(config_root() / 'demo' / FILES['mask'])
    cfg.model.backbone.base_channels = 8
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    cfg.model.roi_head.bbox_head.fc_out_channels = 64
    torch.manual_seed(0)
    return build_model(cfg)


def batch() -> Any:
    """Return an image of noise with one object, in the form of mmdet's pipelines."""
    from mmdet.testing import demo_mm_inputs

    shape = (3, SIDE_PX, SIDE_PX)
    return demo_mm_inputs(1, shape, num_items=[1], num_classes=3, with_mask=True)


def run_on(device: str) -> dict[str, Any]:
    """Train one step and predict on a device.

    Raises:
        ArithmeticError: Loss, gradients or prediction are wrong.
    """
    start = time.monotonic()  # includes the imports
    import torch

    model = tiny_detector().to(device)
    model.train()
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    if not torch.isfinite(loss):
        raise ArithmeticError(f'the loss is {float(loss.detach())}')
    gates = [p for name, p in model.named_parameters() if '.eca.' in name]
    for gate in gates:
        if gate.grad is None or not gate.grad.abs().sum() > 0:
            raise ArithmeticError('a gate has no gradient')
    model.eval()
    with torch.no_grad():
        (sample,) = model.test_step(batch())
    boxes, masks = sample.pred_instances.bboxes, sample.pred_instances.masks
    if len(boxes) != len(masks) or not torch.isfinite(boxes).all():
        raise ArithmeticError('the numbers of predicted masks and boxes differ')
    seconds = time.monotonic() - start
    return {'loss': float(loss.detach()), 'gates': len(gates), 'seconds': seconds}


def main(out: int) -> None:
    """Test the CPU, then the GPU if there is one, and write the results."""
    devices = ['cpu']
    for device in devices:
        record: dict[str, Any] = {'device': device}
        try:
            record |= run_on(device)
            import torch

            if device == 'cpu' and torch.cuda.is_available():
                devices.append('cuda')
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            record['error'] = f'{type(error).__name__}: {" ".join(lines[:2])}'
        os.write(out, json.dumps(record).encode() + b'\n')


if __name__ == '__main__':
    _out = os.dup(1)
    os.dup2(2, 1)
    main(_out)
    sys.stdout.flush()
    os._exit(0)
