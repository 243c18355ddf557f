"""Reading of safetensors files, in one pass and within the size of the file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import IO, Any

import torch
from torch import Tensor

from eca_mmdet.checkpoints.unpickling import excessive
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import clipped

_DTYPES = {
    **{f'F{bits}': getattr(torch, f'float{bits}') for bits in (16, 32, 64)},
    **{f'I{bits}': getattr(torch, f'int{bits}') for bits in (8, 16, 32, 64)},
    **{f'U{bits}': getattr(torch, f'uint{bits}') for bits in (8, 16, 32, 64)},
    **{'BF16': torch.bfloat16, 'BOOL': torch.bool, 'C64': torch.complex64},
    **{'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2},
}
_LONGEST = 8 << 20
"""Most bytes of a header, which is text of about 100 bytes a tensor."""

_MOST = 20_000
"""Most tensors; the largest detectors of mmdet have 4,000."""


def read_safetensors(file: IO[bytes]) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Return tensors in the order of the file, its text entries, and its SHA-256.

    Raises:
        WeightsError: the file is damaged, or made to exhaust memory or time.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, 'little')
    if length > size - 8:
        raise _damaged(f'its header has {length:,} bytes, the file {size:,}')
    if length > _LONGEST:
        raise excessive(f'its header has {length:,} bytes')
    raw = file.read(length)
    digest = hashlib.sha256(start + raw)
    places, metadata = _read_header(raw)
    state, at = {}, 0
    ends = [end for *_, end in places]
    if (ends[-1] if ends else 0) != size - 8 - length:
        raise _damaged(f'it has values of {size - 8 - length:,} bytes')
    for name, dtype, shape, begin, end in places:
        if begin != at:
            raise _damaged(f'the values of {clipped(name)} are not after the last')
        at = end
        block = torch.empty(end - begin, dtype=torch.uint8)
        view = memoryview(block.numpy())
        if file.readinto(view) != end - begin:  # type: ignore[attr-defined]
            raise _damaged('it has become shorter')
        digest.update(view)
        state[name] = block.view(dtype).reshape(shape)
    return state, metadata, digest.hexdigest()


def _read_header(raw: bytes) -> tuple[list[Any], dict[str, str]]:
    """Return name, type, shape, begin and end of each tensor, and the text entries."""
    try:
        header = json.loads(raw, object_pairs_hook=_without_repetition)
        metadata = header.pop('__metadata__', {})
        if len(header) > _MOST:
            raise excessive(f'it has {len(header):,} tensors')
        places = [(name, *_place(name, **entry)) for name, entry in header.items()]
        texts = {k: v for k, v in metadata.items() if isinstance(v, str)}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise _damaged(f'header: {clipped(str(error), 100)}') from error
    places.sort(key=lambda place: place[3:])
    empty = [begin for *_, begin, end in places if begin == end]
    if len(set(empty)) < len(empty):
        raise excessive(f'it has {len(empty):,} tensors without values, at one place')
    return places, texts


def _place(name: str, dtype: str, shape: list[int], data_offsets: list[int]) -> Any:
    begin, end = data_offsets
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end)):
        raise excessive(f'{clipped(name)} has sizes that no tensor has')
    if len(shape) > 32 or math.prod(n or 1 for n in shape) >= 1 << 48:
        raise excessive(f'{clipped(name)} has a shape that no tensor has')
    if dtype not in _DTYPES:
        raise WeightsError(
            f'has a tensor of type {clipped(str(dtype))} ({clipped(name)}), which is '
            'not read here.',
            code='unsupported-format',
        )
    needed = math.prod(shape) * _DTYPES[dtype].itemsize
    if needed != end - begin:
        raise _damaged(
            f'{clipped(name)} needs {needed:,} bytes and has {end - begin:,}'
        )
    return _DTYPES[dtype], shape, begin, end


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError('a name is in it twice')
    return found


def _damaged(reason: str) -> WeightsError:
    return WeightsError(
        f'is damaged or cut off ({reason}). Get the file again.', code='file-unreadable'
    )
