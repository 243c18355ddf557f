"""Recognise and convert checkpoint files, by path or address."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.checkpoints.archive import require_values
from eca_mmdet.checkpoints.conversion import ConvertReport, convert
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.inspection import Inspection, inspect
from eca_mmdet.checkpoints.io import read_weights, write_weights
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.io import sha256_of

_V3 = 'MMDetection v3'  # layout of a converted detector


@dataclass(frozen=True)
class ConvertedFile:
    """A checkpoint written by :func:`convert_weights`.

    Attributes:
        file: the new checkpoint.
        report: what became of every tensor.
        metadata: text entries of the new checkpoint.
        left_out: entries beside the tensors of the source, which are not kept.
    """

    file: Path
    report: ConvertReport
    metadata: dict[str, str]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report and the metadata for JSON."""
        return self.report.to_dict() | {'metadata': self.metadata}


def inspect_weights(source: str | Path, trust: Iterable[str] = ()) -> Inspection:
    """Say what a checkpoint is and which backbone or config it fits.

    Args:
        source: path, or an https:// or hf:// address.
        trust: 'MODULE.CLASS' names that reading the file may use.

    Raises:
        WeightsError: the file cannot be read.

    Example:
        >>> import eca_mmdet
        >>> found = eca_mmdet.inspect_weights('eca_resnet18.pth')
        >>> found.network, found.kernel_sizes
        ('ECA-ResNet-18', (3, 5, 7, 7))
    """
    return inspect(_local(source), trust, name=str(source))


def convert_weights(
    source: str | Path,
    target: str | Path,
    to: str = 'mmdet',
    force: bool = False,
    trust: Iterable[str] = (),
    v1_retinanet: bool = False,
) -> ConvertedFile:
    """Rename the tensors of a checkpoint; each is mapped or reported as dropped.

    Args:
        source: path, or an https:// or hf:// address.
        target: file to write, .safetensors or .pth.
        to: 'mmdet', 'authors' or 'timm'.
        force: replace ``target`` if it exists.
        trust: 'MODULE.CLASS' names that reading the file may use.
        v1_retinanet: the source is a RetinaNet of MMDetection v1, which its tensor
            names do not show.

    Raises:
        WeightsError: the file cannot be read, is not recognised, or has no such form.

    Example:
        >>> import eca_mmdet
        >>> done = eca_mmdet.convert_weights('eca_resnet18.pth', 'new.safetensors')
        >>> done.report.source, sorted(done.report.dropped)
        ('authors', ['fc.bias', 'fc.weight'])
    """
    path, target = _local(source), Path(target)
    file = read_weights(path, trust)
    require_values(path, file.state)
    with contextlib.suppress(OSError):
        if target.samefile(path):
            raise WeightsError(
                f'{target} is the source itself; write to another name.',
                code='output-exists',
            )
    try:
        if file.metadata.get('layout') == _V3 and to == 'mmdet':
            raise WeightsError(
                'converted to MMDetection 3.x already; nothing to do.',
                code='checkpoint-mismatch',
            )
        state, report = convert(file.state, to, v1_retinanet, file.extras)
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}', code=error.code) from error
    if report.target == _V3 and target.suffix == '.safetensors':
        raise WeightsError(
            f'{target}: mmengine loads whole detectors from .pth files only; write to '
            'a name in .pth.',
            code='unsupported-format',
        )
    metadata = {
        'network': report.network,
        'layout': report.target,
        'kernel_sizes': ','.join(map(str, report.kernel_sizes or ())),
        'source': _without_secrets(str(source)),
        'source_sha256': sha256_of(path),
    }
    if report.classes:
        metadata['classes'] = str(report.classes)
    write_weights(target, state, metadata, force)
    return ConvertedFile(target, report, metadata, tuple(map(str, file.extras)))


def _local(source: str | Path) -> Path:
    return fetch(str(source)) if is_address(str(source)) else Path(source)


def _without_secrets(source: str) -> str:
    """Return an address without user name, password and query; a path as it is."""
    if not is_address(source):
        return source
    parts = urllib.parse.urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2], query='').geturl()
