"""Whether a PyTorch file is as large as it says, before it is loaded.

``torch.load`` believes a zip: ten megabytes of compressed zeros become ten gigabytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from eca_mmdet.checkpoints.pickle_scan import ExcessiveError, scan
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import clipped

_MOST_GROWTH = 16
"""Bytes of tensors or zip members for a byte of the file. One tensor may have several
names; torch itself compresses nothing."""

_ALLOWANCE = 1 << 20
_LEGACY_PICKLES = 4  # number, version, machine, and the content


def require_proportion(path: Path) -> None:
    """Refuse a PyTorch file that would grow out of all proportion.

    Raises:
        WeightsError: it would; or what it is made of cannot be read.
    """
    try:
        with path.open('rb') as file:
            if file.read(2) == b'PK':
                _check_zip(path)
            else:
                file.seek(0)
                scan(file, _LEGACY_PICKLES)
    except WeightsError:
        raise
    except ExcessiveError as error:
        raise WeightsError(
            f'{path} was refused: it has a pickle {error}, which weights never need. '
            'It is built to exhaust memory or time; do not use it.'
        ) from error
    except Exception as error:  # zipfile and pickletools raise a dozen types
        line = next(iter(str(error).splitlines()), '') or type(error).__name__
        raise WeightsError(
            f'{path} cannot be read as PyTorch weights: it is damaged, cut off or '
            f'something else ({clipped(line, 120)}). Get the file again.'
        ) from error


def _check_zip(path: Path) -> None:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(one.file_size for one in members)
        if total > _most(size):
            raise WeightsError(
                f'{path} was refused: it has {size:,} bytes and would become '
                f'{total:,}. PyTorch compresses nothing: it is built to exhaust '
                'memory, or damaged.'
            )
        for one in members:
            if one.filename.endswith('.pkl'):
                with archive.open(one) as file:
                    scan(file)


def require_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have many more elements than the file has values.

    Such can be looked at, but not written: a view becomes a tensor of its own then.

    Raises:
        WeightsError: they have.
    """
    size = path.stat().st_size
    total = sum(one.numel() * one.element_size() for one in state.values())
    if total > _most(size):
        raise WeightsError(
            f'{path} was refused: its tensors claim {total:,} bytes, and the file has '
            f'{size:,}: it repeats one value for many.'
        )


def _most(size: int) -> int:
    return _MOST_GROWTH * size + _ALLOWANCE
