"""Limits on the classes and the memory that reading a PyTorch file may use.

``torch.load(weights_only=True)`` runs no code, but torch 2.6 and newer refuse the loss
histories in mmengine's checkpoints, ``HistoryBuffer`` and numpy arrays: mmengine 0.10.7
then fails to test or resume (open-mmlab/mmengine#1655), and onedl-mmengine falls back
to loading that may run code. Naming the few harmless classes keeps both lines safe.

It also believes a zip (ten megabytes of compressed zeros become ten gigabytes), and a
pickle of a few hundred bytes can ask for more memory than there is, or for years:
hashing a tuple that contains the same tuple twice, forty levels deep, visits 2^40.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eca_mmdet.checkpoints.file_kinds import zip_kind
from eca_mmdet.utils.errors import UserError, WeightsError

_NEVER = frozenset(
    'os posix nt sys subprocess shutil builtins __builtin__ runpy pty socket ctypes '
    'importlib pickle _pickle marshal types code codeop operator functools inspect '
    'webbrowser commands multiprocessing threading asyncio signal tempfile pathlib io '
    '_io platform pip pdb timeit cProfile bdb eca_mmdet'.split()
)
"""Modules whose functions run code, open files or reach other functions."""

_HARMLESS = {f'builtins.{name}' for name in ('slice', 'range', 'complex', 'frozenset')}

_GROWTH = 16
"""Most bytes, or steps of unpickling, for a byte of the file. One tensor may have
several names; torch itself compresses nothing."""

_ALLOWANCE = 1 << 20
_LEGACY_PICKLES = 4  # number, version, machine, and the content
_ALLOCATING = re.compile(r'.*(bytearray|Tensor|Storage|ndarray)')


def never_trusted(name: str) -> bool:
    """Return whether a dotted name is of a module that weights never need."""
    return name.split('.')[0] in _NEVER and name not in _HARMLESS


@contextlib.contextmanager
def trusting(names: tuple[str, ...]) -> Iterator[None]:
    """Let unpickling use further classes, by their dotted names."""
    known = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([_resolve(name) for name in names])
    try:
        yield
    finally:
        if names:
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
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        kind = getattr(importlib.import_module(module), attribute)
        # A function would be called with whatever arguments the file holds.
        if isinstance(kind, type) and f'{kind.__module__}.{kind.__qualname__}' == name:
            return kind
    raise UserError(
        f'--trust {name}: there is no class of that name here (functions are never '
        'trusted). Give the dotted name as the refusal of the file spells it.',
        code='option-invalid',
    )


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function under the global name that a checkpoint calls it by.

    torch 2.4 and 2.5 know no other way to allow a function under another name.
    """

    def renamed(*args: Any) -> Any:
        return function(*args)

    renamed.__module__, _, renamed.__name__ = name.rpartition('.')
    renamed.__qualname__ = renamed.__name__
    return renamed


def allow_mmengine_checkpoints(histories: bool = True) -> None:
    """Add numpy's arrays, and mmengine's loss histories, to torch's safe globals.

    Again for each file: mmengine removes its own entries after a load, some of them the
    same. Without ``histories`` mmengine, which takes a second, is not imported.
    """
    allowed = _numpy_globals() + (_mmengine_globals() if histories else [])
    torch.serialization.add_safe_globals(allowed)


@functools.cache
def _numpy_globals() -> list[Any]:
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


def scan(file: IO[bytes]) -> set[str]:
    """Return the names that unpickling a PyTorch file would look up.

    A file whose content is out of all proportion to its size is rejected. For a damaged
    file, zipfile and pickletools raise a dozen types of exceptions.
    """
    most, names = _most(os.fstat(file.fileno()).st_size), set[str]()
    file.seek(0)
    if file.read(2) != b'PK':
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            names |= _follow(file, most)
        return names
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if kind := zip_kind([member.filename for member in members]):
            raise WeightsError(kind, code='checkpoint-unrecognised')
        if sum(member.file_size for member in members) > most:
            raise excessive('it would unpack to much more than its own size')
        for member in members:
            if member.filename.endswith('.pkl'):
                with archive.open(member) as pickle:
                    names |= _follow(pickle, most)
    return names


def require_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Reject tensors with many more elements than the file has values.

    They can be inspected, but not written: writing copies each view in full.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if total > _most(path.stat().st_size):
        raise WeightsError(
            f'{path} was refused: its tensors claim {total:,} bytes, and the file has '
            f'{path.stat().st_size:,}: it repeats one value for many.',
            code='checkpoint-unsafe',
        )


def _most(size: int) -> int:
    return _GROWTH * size + _ALLOWANCE


def excessive(reason: str) -> WeightsError:
    """Return the refusal of a file made to exhaust memory or time."""
    return WeightsError(
        f'{reason}, which weights never need. It is damaged, or built to exhaust '
        'memory or time; do not use it.',
        code='checkpoint-unsafe',
    )


class _Value(NamedTuple):
    """A value on the unpickler's stack."""

    # Values that hashing it visits; each level of nesting counts double, which bounds
    # the depth as well.
    visits: int = 1
    letters: int = 0  # in its texts
    name: str = ''  # if it is a class or function


_MARK = _Value()


def _follow(stream: IO[bytes], most: int) -> set[str]:
    """Follow one pickle with sizes in place of values; return the names it looks up."""
    names = set()
    stack: list[_Value] = []
    memo: dict[Any, _Value] = {}
    steps = 0
    for operation, argument, _ in pickletools.genops(stream):
        name, before = operation.name, operation.stack_before
        if name.endswith('GET'):
            stack.append(memo[argument])
        elif 'PUT' in name or name == 'MEMOIZE':
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == 'MARK':
            stack.append(_MARK)
        else:
            taken = []
            if marked := pickletools.markobject in before:
                while (value := stack.pop()) is not _MARK:
                    taken.append(value)
            single = before.index(pickletools.markobject) if marked else len(before)
            taken += [stack.pop() for _ in range(single)]
            value = _result(name, argument, taken[::-1])
            stack += [value] * len(operation.stack_after)
            steps += value.letters if name == 'REDUCE' else 0
        steps += stack[-1].visits if stack else 1
        if steps > most:
            raise excessive('unpickling it would take far more steps than it has data')
        if name == 'GLOBAL':
            names.add(str(argument).replace(' ', '.'))
    return names


def _result(name: str, argument: Any, taken: list[_Value]) -> _Value:
    """Return what an operation leaves on the stack."""
    if name in ('TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'):
        visits = 1 + 2 * sum(value.visits for value in taken)
        return _Value(visits, sum(value.letters for value in taken))
    if name in ('REDUCE', 'NEWOBJ'):
        function, arguments = taken
        if _ALLOCATING.fullmatch(function.name):
            raise excessive(f'it asks for an empty {function.name.split()[-1]}')
        # Encoding makes up to four bytes of a letter, and can be repeated.
        letters = 4 * arguments.letters if function.name == '_codecs encode' else 0
        return _Value(arguments.visits, letters)
    if name == 'GLOBAL':
        return _Value(name=str(argument))
    return _Value(letters=len(argument) if isinstance(argument, str) else 0)
