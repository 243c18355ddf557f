"""``eca-mmdet weights``: recognise and convert files of weights."""

from __future__ import annotations

import argparse
import contextlib
import json
import textwrap
import urllib.parse
from pathlib import Path

from eca_mmdet.checkpoints.archive import require_values
from eca_mmdet.checkpoints.conversion import ConvertReport, convert
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.inspection import Inspection, inspect
from eca_mmdet.checkpoints.io import read_weights, write_weights
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.io import sha256_of
from eca_mmdet.utils.text import printable

_V3 = 'MMDetection v3'  # layout of a converted detector


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 if the file is not recognised."""
    return _inspect(args) if args.action == 'inspect' else _convert(args)


def _inspect(args: argparse.Namespace) -> int:
    found = inspect(_local(args.file), args.trust, name=args.file)
    print(json.dumps(found.to_dict(), indent=1) if args.json else as_text(found))
    return 0 if found.known else 1


def _local(source: str) -> Path:
    return fetch(source) if is_address(source) else Path(source)


def as_text(found: Inspection) -> str:
    """Lay an inspection out for reading, one fact a line."""
    sizes: object = ''
    if found.block_kernel_sizes:
        sizes = f'{_row(found.kernel_sizes or ())} (uniform in each stage)'
        if not found.uniform:
            sizes = f'differ inside a stage: {found.block_kernel_sizes}'
    facts = {
        'what': found.what,
        'depth': f'{found.depth} = ' * bool(found.depth)
        + f'{_row(found.blocks)} {found.block} blocks',
        'stem': found.stem,
        'shortcut': found.shortcut,
        'widths': _row(found.out_channels),
        'gates': f'{found.gates} {found.gate}' if found.gate else 'none',
        'kernel sizes': sizes,
    }
    if not found.known:
        facts = {'what': found.what}
    facts |= {
        'classes': found.classes,
        'tensors': f'{found.tensors}, {" and ".join(found.dtypes)}',
        'file': ', '.join(filter(None, (found.container, found.wrapped))),
        'beside': ', '.join(found.beside),
        'metadata': ', '.join(f'{k}={v}' for k, v in found.metadata.items()),
        'sha256': found.sha256,
    }
    lines = [printable(found.path)]
    lines += [f'  {k:13} {printable(str(v))}' for k, v in facts.items() if v]
    lines += [
        textwrap.fill(
            printable(note), 86, initial_indent='  ! ', subsequent_indent='    '
        )
        for note in found.notes
    ]
    if found.backbone:
        lines += ['', *(f'  {printable(s)}' for s in found.backbone.split('\n'))]
    elif found.known:
        lines += ['', '  No backbone of mmdet or of this package has this network.']
    if found.command:
        lines += ['', f'  {printable(found.command)}']
    return '\n'.join(lines)


def _row(values: tuple[int | None, ...]) -> str:
    return ', '.join('-' if value is None else str(value) for value in values)


def _convert(args: argparse.Namespace) -> int:
    source, target = _local(args.source), Path(args.target)
    file = read_weights(source, args.trust)
    require_values(source, file.state)
    with contextlib.suppress(OSError):
        if target.samefile(source):
            raise WeightsError(f'{target} is the source itself; write to another name.')
    try:
        if file.metadata.get('layout') == _V3 and args.to == 'mmdet':
            raise WeightsError('converted to MMDetection 3.x already; nothing to do.')
        state, report = convert(file.state, args.to, args.v1_retinanet, file.extras)
    except WeightsError as error:
        raise WeightsError(f'{source}: {error}') from error
    if report.target == _V3 and target.suffix == '.safetensors':
        raise WeightsError(
            f'{target}: mmengine loads whole detectors from .pth files alone; write to '
            'a name in .pth.'
        )
    metadata = {
        'network': report.network,
        'layout': report.target,
        'kernel_sizes': ','.join(map(str, report.kernel_sizes or ())),
        'source': _without_secrets(args.source),
        'source_sha256': sha256_of(source),
    }
    if report.classes:
        metadata['classes'] = str(report.classes)
    write_weights(target, state, metadata, args.force)
    if args.json:
        print(json.dumps(report.to_dict() | {'metadata': metadata}, indent=1))
    else:
        print(_summary(report, args.source, target, list(file.extras)))
    return 0


def _without_secrets(source: str) -> str:
    """Return an address without user name, password and query; a path as it is."""
    if not is_address(source):
        return source
    parts = urllib.parse.urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2], query='').geturl()


def _summary(
    report: ConvertReport, source: str, target: Path, beside: list[str]
) -> str:
    renamed = sum(old != new for old, new in report.mapped.items())
    lines = [
        f'{source}: {report.network}, {report.source} -> {report.target}',
        f'  {len(report.mapped)} tensors written to {target}, {renamed} under another '
        'name',
    ]
    for key, how in report.changed.items():
        lines.append(f'  {key}: {how}')
    for key, reason in report.dropped.items():
        lines.append(f'  dropped {key} ({reason})')
    if beside:
        names = ', '.join(map(str, beside))
        lines.append(f'  not kept, beside the tensors: {names}')
    return '\n'.join(map(printable, lines))
