"""Classes that ``torch.load(weights_only=True)`` may build besides tensors.

mmengine's checkpoints hold loss histories: its ``HistoryBuffer`` and numpy arrays.
torch 2.6 and newer refuse those by default; mmengine 0.10.7 then fails to test or
resume (open-mmlab/mmengine#1655), and onedl-mmengine falls back to loading that may run
code. Naming the few harmless classes keeps loading safe on both lines.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from eca_mmdet.utils.errors import UserError

_NEVER = frozenset(
    'os posix nt sys subprocess shutil builtins __builtin__ runpy pty socket ctypes '
    'importlib pickle _pickle marshal types code codeop operator functools inspect '
    'webbrowser commands multiprocessing threading asyncio signal tempfile pathlib io '
    '_io platform pip pdb timeit cProfile bdb eca_mmdet'.split()
)
"""Modules whose functions run code, open files or reach other functions."""


_HARMLESS = frozenset(
    f'builtins.{name}' for name in ('slice', 'range', 'complex', 'frozenset')
)


def never_trusted(name: str) -> bool:
    """Tell whether a dotted name is of a module that weights never need."""
    return name.split('.')[0] in _NEVER and name not in _HARMLESS


@contextlib.contextmanager
def trusting(names: tuple[str, ...]) -> Iterator[None]:
    """Let unpickling use the named classes, for a while.

    Args:
        names: dotted, as the refusal of a file spells them.

    Raises:
        UserError: a name that does not exist, is no class, or is never trusted.
    """
    import torch

    known = torch.serialization.get_safe_globals()
    added = [_resolve(name) for name in names]
    if not added:
        yield
        return
    torch.serialization.add_safe_globals(added)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


def _resolve(name: str) -> Any:
    module, _, attribute = name.rpartition('.')
    if never_trusted(name):
        raise UserError(
            f'--trust {name}: functions of {name.split(".")[0]} can run code or reach '
            'files; weights never need them.',
            code='option-invalid',
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not isinstance(found, type) or f'{found.__module__}.{found.__qualname__}' != (
        name
    ):
        # A function would be called with whatever arguments the file holds.
        raise UserError(
            f'--trust {name}: there is no class of that name here (functions are never '
            'trusted). Give the dotted name as the refusal of the file spells it.',
            code='option-invalid',
        )
    return found


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function under the global name that a checkpoint calls it by.

    torch 2.4 and 2.5 know no other way to allow a function under another name.
    """

    def renamed(*args: Any) -> Any:
        return function(*args)

    renamed.__module__, _, renamed.__name__ = name.rpartition('.')
    renamed.__qualname__ = renamed.__name__
    return renamed


# mmengine takes its own entries, some of them the same, out again after a load: they
# are put back each time.
def allow_numpy() -> None:
    """Add numpy's arrays and scalars to torch's safe globals."""
    import torch

    torch.serialization.add_safe_globals(_numpy_globals())


def allow_mmengine_checkpoints() -> None:
    """Add what mmengine's checkpoints need to torch's safe globals."""
    import torch

    torch.serialization.add_safe_globals(_numpy_globals() + _mmengine_globals())


@functools.cache
def _numpy_globals() -> list[Any]:
    import numpy as np

    array: Any = np.zeros(1).__reduce__()[0]  # numpy's own constructors
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(name)) for name in ('f4', 'f8', 'i4', 'i8', 'u1', 'bool')}
    allowed: list[Any] = [np.ndarray, np.dtype, *dtypes]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed.append(_named(array, f'{module}._reconstruct'))
        allowed.append(_named(scalar, f'{module}.scalar'))
    return allowed


@functools.cache
def _mmengine_globals() -> list[Any]:
    from mmengine.logging import HistoryBuffer

    def history_method(owner: Any, name: str) -> Any:
        # A pickled HistoryBuffer refers to its statistics as getattr(class, name).
        if owner is not HistoryBuffer or name.startswith('_'):
            raise UserError(
                f'getattr({owner!r}, {name!r}) in a checkpoint',
                code='checkpoint-unsafe',
            )
        return getattr(owner, name)

    return [HistoryBuffer, _named(history_method, 'builtins.getattr')]
