"""PyTorch files put together by hand, so that they can lie."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.faults.judge import CANARY

MIB = 1 << 20


class Call:
    """Pickles as a call of ``function`` on ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Opinion:
    """A harmless class that is not among the plain tensors."""

    def __init__(self) -> None:
        self.value = 3


class Stored:
    """Pickles as a storage that the file is said to hold."""

    def __init__(self, key: str = '0', numel: int = 6, kind: Any = None) -> None:
        self.id = ('storage', kind or torch.FloatStorage, key, 'cpu', numel)


def tensor(
    storage: Stored, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> Call:
    """Return what pickles as a tensor on a storage."""
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Stored) else None


def dumped(value: Any) -> bytes:
    """Pickle as torch does."""
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(value)
    return stream.getvalue()


def zipped(
    content: bytes,
    records: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    more: Callable[[zipfile.ZipFile], None] | None = None,
) -> bytes:
    """Return a file as ``torch.save`` lays it out.

    Args:
        content: the pickle.
        records: bytes of the storages by key.
        method: of the members.
        more: adds members of its own.
    """
    stream = io.BytesIO()
    records = {'0': struct.pack('<6f', *range(6))} if records is None else records
    with zipfile.ZipFile(stream, 'w', method) as archive:
        archive.writestr('archive/data.pkl', content)
        for key, raw in records.items():
            archive.writestr(f'archive/data/{key}', raw)
        archive.writestr('archive/version', '3\n')
        if more:
            more(archive)
    return stream.getvalue()


def zipped_of(value: Any, **more: Any) -> bytes:
    """Return a zip whose pickle is of a value."""
    return zipped(dumped(value), **more)


def legacy_of(content: bytes, keys: list[str], storages: bytes) -> bytes:
    """Return a file as torch saved before 1.6."""
    info = dict(protocol_version=1001, little_endian=True, type_sizes={})
    head = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, info)]
    return b''.join([*head, content, pickle.dumps(keys, 2), storages])


def harmful() -> dict[str, Any]:
    """Return values whose reading would leave ``CANARY`` behind."""
    import shutil
    import subprocess
    import webbrowser

    touch = f'touch {CANARY}'
    return {
        'os-system': Call(os.system, touch),
        'eval': Call(eval, f'open({CANARY!r}, "w")'),
        'exec': Call(exec, f'open({CANARY!r}, "w")'),
        'open': Call(open, CANARY, 'w'),
        'popen': Call(subprocess.Popen, touch, -1, None, None, None, None),
        'mkdir': Call(os.mkdir, CANARY),
        'copy': Call(shutil.copyfile, '/etc/hostname', CANARY),
        'getattr': Call(getattr, Call(__import__, 'os'), 'system'),
        'torch-load': Call(torch.load, CANARY),
        'hub': Call(torch.hub.load, CANARY),
        'web': Call(webbrowser.open, 'http://127.0.0.1:9'),
        'in-rebuild': Call(
            torch._tensor._rebuild_from_type_v2, os.system, int, (touch,), {}
        ),
    }


def put(index: int) -> bytes:
    """Return the opcode that keeps the top of the stack."""
    return b'r' + struct.pack('<I', index)


def get(index: int) -> bytes:
    """Return the opcode that takes what was kept."""
    return b'j' + struct.pack('<I', index)


def doubled_tuples(levels: int) -> bytes:
    """Return opcodes of a tuple that has itself twice, ``levels`` times over."""
    steps = (put(level) + get(level) + b'\x86' for level in range(levels))
    return b')' + b''.join(steps)


def deep_tuples(levels: int) -> bytes:
    """Return opcodes of a tuple in a tuple in a tuple."""
    return b')' + b'\x85' * levels


def growing_text(levels: int) -> bytes:
    """Return opcodes of bytes that are written as digits again and again."""

    def word(text: str) -> bytes:
        return b'X' + struct.pack('<I', len(text)) + text.encode()

    encode = b'c_codecs\nencode\n' * levels
    codecs = ['utf-16', *['hex'] * (levels - 1)]
    steps = (word(codec) + b'\x86R' for codec in codecs)
    return encode + word('abcd' * 100) + b''.join(steps)
