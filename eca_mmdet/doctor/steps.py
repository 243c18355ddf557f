"""Steps of the probe. Run by path in a subprocess of :mod:`.environment`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


def module(name: str) -> dict[str, Any]:
    """Import a module."""
    imported = importlib.import_module(name)
    if imported.__file__ is None:
        raise ImportError(f'{name} is a folder without an __init__.py')
    return {'version': str(getattr(imported, '__version__', ''))}


def cuda() -> dict[str, Any]:
    """Compute on the first GPU, if torch sees one."""
    import torch

    devices = []
    if torch.cuda.is_available():  # warns of a driver that is too old
        ones = torch.ones(8, 8, device='cuda')
        float((ones @ ones).sum())
        indices = range(torch.cuda.device_count())
        devices = [torch.cuda.get_device_properties(index) for index in indices]
    sizes = [[device.name, device.total_memory] for device in devices]
    return {'built': torch.version.cuda, 'devices': sizes}


def torchvision() -> dict[str, Any]:
    """Import torchvision and call an operator: its library is loaded separately."""
    call_nms(importlib.import_module('torchvision.ops').nms)
    return module('torchvision')


def operators() -> dict[str, Any]:
    """Call mmcv's NMS, compiled or supplied."""
    from mmcv import ops

    from eca_mmdet.mmcv_ops.extension import is_supplied

    call_nms(ops.nms)
    return {'supplied': is_supplied()}


def call_nms(nms: Callable[..., Any]) -> None:
    """Call an operator on the GPU if there is one."""
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    boxes, scores = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.7])
    nms(boxes.to(device), scores.to(device), 0.5)


STEPS: dict[str, Callable[[], dict[str, Any]]] = {
    # Before mmengine, and so without registering, which would import mmdet.
    'python': lambda: module('eca_mmdet'),
    'cuda': cuda,
    'torchvision': torchvision,
    'pycocotools': lambda: module('pycocotools.mask'),
    'mmcv.ops': operators,
}
"""Step to function; any other name is a module to import."""


def run_program(steps: Iterable[tuple[str, Callable[[], dict[str, Any]]]]) -> None:
    """Run steps by name up to the first failure, write a JSON line for each, and exit.

    A line has the names of ``environment.Result``. The parent so knows which step ended
    the process. Its pipe is for these lines only: what libraries print goes to stderr.
    """
    out = os.dup(1)
    os.dup2(2, 1)
    from eca_mmdet.utils.text import clipped

    for name, step in steps:
        record: dict[str, Any] = {'step': name}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                record['value'] = step()
            except BaseException as error:  # SystemExit as well
                record['error'] = type(error).__name__
                message = ' '.join(str(error).split())
                record['message'] = clipped(message, 300) or record['error']
                if isinstance(error, ModuleNotFoundError):
                    record['missing'] = error.name
        texts = [str(warning.message) for warning in caught][:20]
        record['warnings'] = [clipped(text, 300) for text in texts]
        os.write(out, json.dumps(record).encode() + b'\n')
        if 'error' in record:
            break
    sys.stdout.flush()
    os._exit(0)  # skip the libraries' shutdown


if __name__ == '__main__':
    run_program((n, STEPS.get(n, partial(module, n))) for n in sys.argv[1:])
