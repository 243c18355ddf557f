"""Self-test of an installation: a training step and a prediction of a tiny detector.

Run by path in a subprocess of ``eca-mmdet doctor``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

SIDE_PX = 96


def tiny_detector() -> Any:
    """Build the demo's Mask R-CNN at half its width."""
    import torch

    from eca_mmdet.demo.run import compose
    from eca_mmdet.engine.config import build_model

    cfg = compose('mask', 'eca', 18, Path('data'), seed=0)
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


def devices() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the test of the CPU, then that of the GPU if there is one."""
    yield 'cpu', partial(run_on, 'cpu')
    import torch

    if torch.cuda.is_available():
        yield 'cuda', partial(run_on, 'cuda')


if __name__ == '__main__':
    from eca_mmdet.doctor.steps import run_program

    run_program(devices())
