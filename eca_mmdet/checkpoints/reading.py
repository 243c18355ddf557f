"""Content of checkpoint files, with limits on what reading one may use.

``torch.load(weights_only=True)`` runs no code, but refuses the loss histories in
mmengine's checkpoints (open-mmlab/mmengine#1655): their few classes are allowed here.
It also believes a zip (ten megabytes of compressed zeros become ten gigabytes), and a
pickle of a few hundred bytes can ask for more memory than there is, or for years:
hashing a tuple that contains the same tuple twice, forty levels deep, visits 2^40.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.text import clipped, first

_TORCH_MAGIC = (b'PK\x03\x04', b'\x80\x02\x8a\x0a')  # since torch 1.6; before
_KINDS = {  # first bytes, and what the file is
    rb'\s*<': (
        'a web page, not weights: a download that ended at a log-in, quota or error '
        'page. Open its address in a browser and save the file itself.'
    ),
    rb'(?s).{257}ustar': (
        'a tar archive, not weights. (The .pth.tar files of the ECA-Net authors are no '
        'archives: use them as they were downloaded, never repacked.)'
    ),
    rb'\x1f\x8b': 'gzip-compressed. Unpack it and give the file inside.',
    rb'BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|Rar!|7z\xbc\xaf|PK\x05\x06': (
        'a compressed archive. Unpack it and give the file inside.'
    ),
    rb'version https?://': 'a Git LFS pointer, not the file: run git lfs pull.',
    rb'\x80[\x00-\x05]': (
        'a plain Python pickle, not PyTorch weights. Reading one can run any code, so '
        'it is not read.'
    ),
    rb'\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]': (
        'an ONNX model. Give the checkpoint that it was exported from.'
    ),
    rb'(?s)\x89HDF|.{4}TFL3|GGUF|\x93NUMPY': (
        'a file of another library (HDF5, TensorFlow Lite, GGUF or NumPy).'
    ),
    rb'\x89PNG|\xff\xd8\xff|GIF8|RIFF|%PDF': 'an image or a document, not weights.',
    rb'\s*[\[{]\s*["\]}{\[]': (
        'JSON, not weights: a message of a server, or an index of files with tensors.'
    ),
    rb'\0{512}': 'all zeros: a download that did not end. Get the file again.',
}

_ZIPS = {  # a member of a zip archive, and what the archive then is
    'constants.pkl': (
        'is a TorchScript archive: a program with its weights. Give the checkpoint '
        'that it was made from, or save torch.jit.load(FILE).state_dict() with '
        'torch.save.'
    ),
    'data.pkl': '',  # a checkpoint
    'archive_format': 'is a program that torch.export saved, not a state dict.',
}

_LONGEST_HEADER = 8 << 20
"""Bytes of a safetensors header, which has about 100 for a tensor."""

_MOST_TENSORS = 20_000
"""In a safetensors file; the largest detectors of mmdet have 4,000."""

_NEVER = frozenset(
    'os posix nt sys subprocess shutil builtins __builtin__ runpy pty socket ctypes '
    'importlib pickle _pickle marshal types code codeop operator functools inspect '
    'webbrowser commands multiprocessing threading asyncio signal tempfile pathlib io '
    '_io platform pip pdb timeit cProfile bdb eca_mmdet'.split()
)
"""Modules whose functions run code, open files or reach other functions."""

_HARMLESS = {f'builtins.{name}' for name in ('slice', 'range', 'complex', 'frozenset')}

_GROWTH = 32
"""Most bytes, or steps of unpickling, for a byte of the file. One tensor may have
several names; torch itself compresses nothing."""

_ALLOWANCE = 1 << 20
_LEGACY_PICKLES = 4  # number, version, machine, and the content
_ALLOCATING = re.compile(r'.*(bytearray|Tensor|Storage|ndarray)')


def _never_trusted(name: str) -> bool:
    """Return whether a dotted name is of a module that weights never need."""
    return name.split('.')[0] in _NEVER and name not in _HARMLESS


@contextlib.contextmanager
def _trusting(names: tuple[str, ...]) -> Iterator[None]:
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
    if _never_trusted(name):
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
    """Return a function under the name that a checkpoint calls it by."""

    def renamed(*args: Any) -> Any:
        return function(*args)

    renamed.__module__, _, renamed.__name__ = name.rpartition('.')
    renamed.__qualname__ = renamed.__name__
    return renamed


def allow_mmengine_checkpoints(histories: bool = True) -> None:
    """Add numpy's arrays, and mmengine's loss histories, to torch's safe globals.

    Again for each file: mmengine removes entries after a load. Without ``histories``
    mmengine, which takes a second, is not imported.
    """
    torch.serialization.add_safe_globals(_numpy_globals())
    if histories:
        torch.serialization.add_safe_globals(_mmengine_globals())


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


def _scan(file: IO[bytes]) -> set[str]:
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
        _require_checkpoint([member.filename for member in members])
        if sum(member.file_size for member in members) > most:
            raise _excessive('it would unpack to much more than its own size')
        for member in members:
            if member.filename.endswith('.pkl'):
                with archive.open(member) as stream:
                    names |= _follow(stream, most)
    return names


def _require_checkpoint(names: list[str]) -> None:
    """Reject a zip archive of other members than a checkpoint's."""
    inside = {name.rpartition('/')[2] for name in names}
    shown = first([clipped(name) for name in names]) or 'nothing'
    other = f'is a zip archive of {shown}, not weights. Unpack it and give a file '
    other += 'inside.'
    if kind := next((_ZIPS[name] for name in _ZIPS if name in inside), other):
        raise WeightsError(kind, code='checkpoint-unrecognised')


def _follow(stream: IO[bytes], most: int) -> set[str]:
    """Follow a pickle without building its values; return the names it looks up.

    In place of a value its size is on the stack, in place of a text the text itself.
    The size of a tuple is the number of values that hashing it visits. Each level
    counts double, which bounds the depth as well.
    """
    names, steps = set(), 0
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(stream):
        name, before = operation.name, operation.stack_before
        if 'PUT' in name or name == 'MEMOIZE':
            memo[len(memo) if argument is None else argument] = stack[-1]
            continue
        if name == 'MARK':
            stack.append(pickletools.markobject)
            continue
        taken = []
        if pickletools.markobject in before:
            while (entry := stack.pop()) is not pickletools.markobject:
                taken.append(entry)
            before = before[: before.index(pickletools.markobject)]
        taken += [stack.pop() for _ in before]
        size = sum(len(v) if isinstance(v, str) else v for v in taken)
        value: Any = 1
        if name.endswith('GET'):
            value = memo[argument]
        elif name == 'GLOBAL' or isinstance(argument, str):
            value = argument
        elif name.startswith('TUPLE'):
            value = 1 + 2 * size
        elif name in ('REDUCE', 'NEWOBJ'):
            function = str(taken[-1])
            if _ALLOCATING.fullmatch(function):
                raise _excessive(f'it asks for an empty {function.split()[-1]}')
            # Encoding makes up to four bytes of a letter, and can be repeated.
            value = 4 * size if function == '_codecs encode' else size
        if name == 'GLOBAL':
            names.add(str(argument).replace(' ', '.'))
        stack += [value] * len(operation.stack_after)
        steps += len(value) if isinstance(value, str) else value
        if steps > most:
            raise _excessive('unpickling it would take far more steps than it has data')
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


def _excessive(reason: str) -> WeightsError:
    """Return the refusal of a file made to exhaust memory or time."""
    return WeightsError(
        f'{reason}, which weights never need. It is damaged, or built to exhaust '
        'memory or time; do not use it.',
        code='checkpoint-unsafe',
    )


def read_content(
    path: Path, file: IO[bytes], trust: tuple[str, ...]
) -> tuple[str, Any, dict[str, str]]:
    """Return 'PyTorch' or 'safetensors', the content of a file, and its text entries.

    The first bytes decide on the format. ``trust`` names further classes to allow.
    """
    head = file.read(512)
    if not head:
        raise WeightsError(f'{path} is empty. Get the file again.', code='file-empty')
    file.seek(0)
    is_text = re.fullmatch(rb'[\s -~]{8}', head[:8])  # no number of bytes
    if head[8:9] == b'{' and not is_text and not head.startswith(_TORCH_MAGIC[0]):
        return 'safetensors', *_read_safetensors(path, file)
    if head.startswith(_TORCH_MAGIC):
        return 'PyTorch', _read_torch(path, file, trust), {}
    text = head.removeprefix(b'\xef\xbb\xbf')
    if head[:2] in (b'\xff\xfe', b'\xfe\xff'):  # UTF-16
        text = head[2:].replace(b'\0', b'')
    kinds = (f'is {kind}' for start, kind in _KINDS.items() if re.match(start, text))
    other = f'is not a checkpoint: neither PyTorch nor safetensors ({head[:8]!r}...).'
    kind = next(kinds, other)
    raise WeightsError(f'{path} {kind}', code='checkpoint-unrecognised')


def _read_safetensors(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, str]]:
    """Return tensors and text entries of a file whose header is not excessive.

    The library checks types, shapes and places, but no numbers and repeated names.
    """
    try:
        length = int.from_bytes(file.read(8), 'little')
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError(f'its header would have {length:,} bytes')
        if length > _LONGEST_HEADER:
            raise _excessive(f'its header has {length:,} bytes')
        header = json.loads(file.read(length), object_pairs_hook=list)
        names = [name for name, _ in header]
        places = [dict(v)['data_offsets'] for k, v in header if k != '__metadata__']
        empty = [begin for begin, end in places if begin == end]
        if len(names) > _MOST_TENSORS:
            raise _excessive(f'it has {len(names):,} tensors')
        if len({*names}) < len(names) or len({*empty}) < len(empty):
            raise _excessive('it has a name or an empty tensor twice')
        with safe_open(path, framework='pt') as opened:
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return state, opened.metadata() or {}
    except WeightsError as error:
        raise refusal(path, error) from error
    except Exception as error:  # json's, the library's, those of odd values
        reason = clipped(str(error), 120)
        raise WeightsError(
            f'{path} is damaged or cut off ({reason}). Get the file again.',
            code='file-unreadable',
        ) from error


def _read_torch(path: Path, file: IO[bytes], trust: tuple[str, ...]) -> Any:
    with _trusting(trust), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about old forms, in a rejected file
        try:
            histories = any(n.startswith('mmengine.') for n in _scan(file))
            allow_mmengine_checkpoints(histories)
            file.seek(0)
            return torch.load(file, map_location='cpu', weights_only=True)
        except Exception as error:  # torch raises a dozen types for broken files
            raise refusal(path, error) from error


def refusal(path: str | Path, error: Exception) -> WeightsError:
    """Explain why unpickling failed: code, an unknown class, or damage."""
    if isinstance(error, UserError):
        refused = ' was refused:' if error.code == 'checkpoint-unsafe' else ''
        return WeightsError(f'{path}{refused} {error}', code=error.code)
    found = re.search(r'GLOBAL `?([\w.]+)', str(error))
    if not isinstance(error, pickle.UnpicklingError) or not found:
        inner = str(error).rpartition('WeightsUnpickler error: ')[2]
        line = next(iter(inner.splitlines()), '') or type(error).__name__
        return WeightsError(
            f'{path} cannot be read as PyTorch weights (weights_only=True): it is '
            f'damaged, cut off or something else ({clipped(line, 120)}). Get the file '
            'again.',
            code='file-unreadable',
        )
    name = found[1][:200].rstrip('.')
    name = name if '.' in name else f'builtins.{name}'
    if _never_trusted(name):
        return WeightsError(
            f'{path} was refused: reading it would call {name}, which weights never '
            'need. It is built to run code; do not use it.',
            code='checkpoint-unsafe',
        )
    return WeightsError(
        f'{path} was refused: reading it needs {name}, which is not among the plain '
        'tensors that are read (weights_only=True). If you trust whoever made it, '
        f'and {name} is a class that does no more than hold values, convert it once: '
        f'eca-mmdet weights convert {path} NEW.safetensors --trust {name}',
        code='checkpoint-unsafe',
    )
