"""What is tried in a process of its own, a step at a time. Not imported: run by path.

The parent (:mod:`eca_mmdet.doctor.probe`) reads a JSON line before and after each step,
so that it knows which one ended the process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

ORIGINS = [getattr(finder, 'origin', None) for finder in sys.meta_path]
"""Of the finders of a fresh Python: our start-up file adds one."""


def start() -> dict[str, Any]:
    """Look whether our start-up file worked."""
    from eca_mmdet.mmcv_ops.extension import ORIGIN

    return {'offered': ORIGIN in ORIGINS}


def module(name: str) -> dict[str, Any]:
    """Import a module."""
    found = importlib.import_module(name)
    if found.__file__ is None:
        folders = ', '.join(found.__path__)
        raise ImportError(f'{folders} is a folder without an __init__.py')
    return {'version': str(getattr(found, '__version__', '')), 'file': found.__file__}


def torch() -> dict[str, Any]:
    """Import torch, and use it."""
    found = module('torch')
    import torch

    ones = torch.ones(2, 2)
    value, built = float((ones @ ones).sum()), getattr(torch.version, 'cuda', None)
    if value != 8:
        raise ArithmeticError(f'a product of matrices is {value}, not 8')
    return found | {'cuda': built, 'threads': torch.get_num_threads()}


def cuda() -> dict[str, Any]:
    """Use the first GPU, if torch sees any."""
    import torch

    if not torch.cuda.is_available():
        return {'devices': []}
    devices = [
        torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())
    ]
    value = float(
        (torch.ones(8, 8, device='cuda') @ torch.ones(8, 8, device='cuda'))[0, 0]
    )
    if value != 8:
        raise ArithmeticError(f'a product of matrices on the GPU is {value}, not 8')
    return {
        'devices': [[d.name, d.total_memory] for d in devices],
        'cudnn': torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def torchvision() -> dict[str, Any]:
    """Import torchvision, and call an operator: those are loaded apart."""
    found = module('torchvision')
    import torch
    from torchvision.ops import nms

    for device in ['cpu', 'cuda'][: 1 + torch.cuda.is_available()]:
        boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
        scores = torch.tensor([0.7, 0.8, 0.9])
        kept = nms(boxes.to(device), scores.to(device), 0.5).tolist()
        if kept != [2, 1]:
            raise ArithmeticError(f'nms on {device} keeps {kept}, not [2, 1]')
    return found


def pycocotools() -> dict[str, Any]:
    """Import pycocotools, and measure a mask."""
    found = module('pycocotools.mask')
    import numpy
    from pycocotools import mask

    square = numpy.asfortranarray(numpy.ones((3, 4), dtype=numpy.uint8))
    area = int(mask.area(mask.encode(square)))
    if area != 12:
        raise ArithmeticError(f'the area of a 3 x 4 mask is {area}, not 12')
    return found


def extension() -> dict[str, Any]:
    """Import mmcv's operators, compiled or supplied."""
    from eca_mmdet.mmcv_ops import extension as mmcv_ext

    found = importlib.import_module(mmcv_ext.EXTENSION)
    supplied = mmcv_ext.is_supplied()
    return {
        'supplied': supplied,
        'file': None if supplied else found.__file__,
        'operators': sorted(mmcv_ext.SUPPLIED),
    }


def operators() -> dict[str, Any]:
    """Call mmcv's NMS, on the GPU too."""
    import torch
    from mmcv import ops

    for device in ['cpu', 'cuda'][: 1 + torch.cuda.is_available()]:
        boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
        scores = torch.tensor([0.7, 0.8, 0.9])
        kept = ops.nms(boxes.to(device), scores.to(device), 0.5)[1].tolist()
        if kept != [2, 1]:
            raise ArithmeticError(f'nms on {device} keeps {kept}, not [2, 1]')
    return {'cuda': str(ops.get_compiling_cuda_version())}


STEPS: dict[str, Callable[[], dict[str, Any]]] = {
    'start': start,
    'torch': torch,
    'cuda': cuda,
    'torchvision': torchvision,
    'pycocotools': pycocotools,
    'mmcv._ext': extension,
    'mmcv.ops': operators,
}
"""Step to function; any other name is a module to import."""


def try_one(name: str) -> dict[str, Any]:
    """Do one step and return its record."""
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
    record['warnings'] = [str(one.message) for one in caught][:20]
    return record


def main(names: list[str], out: int) -> None:
    """Do the steps, to the first that fails, and write their records."""
    # Before mmengine, and so without registering: that would import mmdet.
    importlib.import_module('eca_mmdet')
    for name in names:
        os.write(out, json.dumps({'begin': name}).encode() + b'\n')
        record = try_one(name)
        os.write(out, json.dumps(record).encode() + b'\n')
        if 'error' in record:
            break


if __name__ == '__main__':
    # Records alone go to the parent's pipe; what is printed joins the errors.
    _out = os.dup(1)
    os.dup2(2, 1)
    main(sys.argv[1:], _out)
    sys.stdout.flush()
    os._exit(0)  # nothing of a library's shutdown is of interest
