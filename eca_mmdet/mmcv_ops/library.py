"""torchvision's compiled operators without its Python code, which takes seconds."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in the dtype that it is computed in: float64 or float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def operators(tensor: Tensor) -> Any:
    """Return ``torch.ops.torchvision`` with kernels for the device of a tensor.

    torchvision's package imports torch._dynamo. Plain tensors do without it: its Python
    code adds gradients, which mmcv's functions have themselves, and meta kernels.
    """
    plain = type(tensor) is Tensor and tensor.device.type in ('cpu', 'cuda')
    if 'torchvision' not in sys.modules and not (plain and _load()):
        package()
    return torch.ops.torchvision


def package() -> Any:
    """Return torchvision, imported in a thread of its own.

    The first call of an operator may come from inside ``torch.jit.trace`` or a dispatch
    mode: they record what their thread does, and fail on the import.
    """
    if 'torchvision' not in sys.modules:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(importlib.import_module, 'torchvision').result()
    return sys.modules['torchvision']


@functools.cache
def _load() -> bool:
    """Load the library as torchvision does; return whether its operators are there."""
    spec = importlib.util.find_spec('torchvision')
    if spec is None or os.name == 'nt':  # which needs a search path for DLLs
        return False
    kind = importlib.machinery.ExtensionFileLoader
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    for folder in spec.submodule_search_locations or ():
        finder = importlib.machinery.FileFinder(folder, (kind, suffixes))
        for name in ('_C_stable', '_C'):
            library = finder.find_spec(name)
            if library is not None and library.origin:
                try:
                    torch.ops.load_library(library.origin)  # type: ignore[no-untyped-call]
                except OSError:  # made for another torch: torchvision explains it
                    return False
    return hasattr(torch.ops.torchvision, 'nms')
