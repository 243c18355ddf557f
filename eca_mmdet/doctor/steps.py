"""Steps of the probe. Run by path in a subprocess, not imported.

The parent (:mod:`eca_mmdet.doctor.environment`) reads a JSON line before and after each
step, so that it knows which step ended the process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


def module(name: str) -> dict[str, Any]:
    """Import a module."""
    imported = importlib.import_module(name)
    if imported.__file__ is None:
        folders = ', '.join(imported.__path__)
        raise ImportError(f'{folders} is a folder without an __init__.py')
    return {'version': str(getattr(imported, '__version__', ''))}


def cuda() -> dict[str, Any]:
    """Compute on the first GPU, if torch sees one."""
    import torch

    devices = [
        torch.cuda.get_device_properties(index)
        for index in range(torch.cuda.device_count())
    ]
    if devices:
        ones = torch.ones(8, 8, device='cuda')
        float((ones @ ones).sum())
    else:
        torch.cuda.is_available()  # warns of a driver that is too old
    return {
        'built': torch.version.cuda,
        'devices': [[device.name, device.total_memory] for device in devices],
    }


def torchvision() -> dict[str, Any]:
    """Import torchvision and call an operator: its library is loaded separately."""
    value = module('torchvision')
    from torchvision.ops import nms

    check_nms(nms)
    return value


def check_nms(nms: Callable[..., Any]) -> None:
    """Call an NMS that returns the indices of the kept boxes, on every device."""
    import torch

    for device in ['cpu', 'cuda'][: 1 + torch.cuda.is_available()]:
        boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
        scores = torch.tensor([0.7, 0.8, 0.9])
        kept = nms(boxes.to(device), scores.to(device), 0.5).tolist()
        if kept != [2, 1]:
            raise ArithmeticError(f'nms on {device} keeps {kept}, not [2, 1]')


def operators() -> dict[str, Any]:
    """Call mmcv's NMS, compiled or supplied."""
    from mmcv import ops

    from eca_mmdet.mmcv_ops.extension import is_supplied

    check_nms(lambda *words: ops.nms(*words)[1])
    cuda = str(ops.get_compiling_cuda_version())
    return {'supplied': is_supplied(), 'cuda': cuda}


STEPS: dict[str, Callable[[], dict[str, Any]]] = {
    'cuda': cuda,
    'torchvision': torchvision,
    'pycocotools': lambda: module('pycocotools.mask'),
    'mmcv.ops': operators,
}
"""Step to function; any other name is a module to import."""


def run_step(name: str) -> dict[str, Any]:
    """Run a step and return its record."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try:
            value = STEPS[name]() if name in STEPS else module(name)
            record: dict[str, Any] = {'step': name, 'value': value}
        except BaseException as error:  # SystemExit as well
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            record = {
                'step': name,
                'error': type(error).__name__,
                'message': str(error),
                'missing': missing,
            }
    record['warnings'] = [str(warning.message) for warning in caught][:20]
    return record


def main(names: list[str], out: int) -> None:
    """Run the steps up to the first failure, and write their records."""
    # Before mmengine, and so without registering, which would import mmdet.
    importlib.import_module('eca_mmdet')
    for name in names:
        os.write(out, json.dumps({'begin': name}).encode() + b'\n')
        record = run_step(name)
        os.write(out, json.dumps(record).encode() + b'\n')
        if 'error' in record:
            break


if __name__ == '__main__':
    # The parent's pipe is for records only; what libraries print goes to stderr.
    _out = os.dup(1)
    os.dup2(2, 1)
    main(sys.argv[1:], _out)
    sys.stdout.flush()
    os._exit(0)  # skip the libraries' shutdown
