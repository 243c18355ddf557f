"""``eca-mmdet weights``: download, recognise and convert checkpoints."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.checkpoints.download import FOLDER, SOURCES, download
from eca_mmdet.cli.common import Adder, Commands
from eca_mmdet.utils.text import printable

if TYPE_CHECKING:
    from eca_mmdet.checkpoints.conversion import ConvertedFile
    from eca_mmdet.checkpoints.inspection import Inspection


def add_parser(commands: Commands) -> None:
    """Add the command to the parser."""
    weights = commands.add_parser(
        'weights',
        help='download, recognise and convert checkpoints',
        description='Download public checkpoints; say what a checkpoint is and which '
        'backbone it fits; or rename its tensors for mmdet, the ECA-Net '
        "authors' code or timm.",
    )
    actions = weights.add_subparsers(dest='action', required=True, metavar='ACTION')
    actions.add_parser('list', help='list public checkpoints, and configs with them')
    get = actions.add_parser('download', help='download checkpoints, print their paths')
    add = Adder(get)
    text = 'checkpoint or config of the list, or an https:// or hf:// address'
    add('names', nargs='+', metavar='NAME', help=text)
    text = f'folder (default: {FOLDER}, where the configs look; for addresses a cache)'
    add('--dir', metavar='DIR', help=text)
    inspect = actions.add_parser('inspect', help='say what a file is')
    Adder(inspect)('file', metavar='FILE', help='path, https:// or hf:// address')
    text = 'rename the tensors; every one is mapped or listed as dropped'
    convert = actions.add_parser('convert', help=text)
    add = Adder(convert)
    add('source', metavar='SRC', help='path, https:// or hf://')
    add('target', metavar='DST', help='file to write, .safetensors or .pth')
    add('--to', choices=('mmdet', 'authors', 'timm'), default='mmdet')
    add.flag('--force', 'replace DST if it exists')
    text = 'SRC is a RetinaNet of MMDetection v1 (its names cannot tell)'
    add.flag('--v1-retinanet', text)
    for action in (inspect, convert):
        add = Adder(action)
        text = (
            'let reading use this class; the refusal of a file names it. Only for '
            'files whose maker you trust'
        )
        add('--trust', action='append', default=[], metavar='MODULE.CLASS', help=text)
        text = (
            'the tensors to take where the file has several sets, such as an average '
            '(state_dict_ema, teacher); inspect names them'
        )
        add('--key', default='', metavar='NAME', help=text)
        add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 if the file is not recognised."""
    if args.action in ('list', 'download'):
        known = _public_checkpoints()
        owners = {start: name for name, starts in known.items() for start in starts}
        for name in getattr(args, 'names', ()):
            checkpoint = owners.get(name.partition('_fpn')[0], name)
            print(download(checkpoint, args.dir), flush=True)
        for name, starts in known.items() if args.action == 'list' else ():
            state = 'there' if Path(FOLDER, name).exists() else ''
            print(f'{name:39}{state:7}{", ".join(starts)}'.rstrip())
        return 0
    from eca_mmdet.checkpoints.conversion import convert_weights
    from eca_mmdet.checkpoints.inspection import inspect_weights

    result: Inspection | ConvertedFile
    if args.action == 'inspect':
        result = inspect_weights(args.file, args.trust, args.key)
        text, code = as_text(result), 0 if result.known else 1
    else:
        options = args.to, args.force, args.trust, args.v1_retinanet, args.key
        result = convert_weights(args.source, args.target, *options)
        text, code = _summary(result, args.source), 0
    print(json.dumps(result.to_dict(), indent=1) if args.json else text)
    return code


def _public_checkpoints() -> dict[str, list[str]]:
    """Return checkpoints, and the starts of the names of configs that have each."""
    texts = {name: file.read_text() for name, file in shipped_configs().items()}
    on_hub = re.findall(r"'(hf://[^']+)'", ''.join(texts.values()))
    found: dict[str, list[str]] = {name: [] for name in (*SOURCES, *on_hub)}
    for checkpoint, starts in found.items():
        names = [name for name, text in texts.items() if f"{checkpoint}'" in text]
        starts += dict.fromkeys(name.partition('_fpn')[0] for name in names)
    return found


def as_text(inspection: Inspection) -> str:
    """Lay an inspection out for reading, one fact a line."""
    sizes = ''
    if inspection.block_kernel_sizes:
        sizes = f'{_row(inspection.kernel_sizes or ())} (uniform in each stage)'
        if not inspection.uniform:
            sizes = f'differ inside a stage: {inspection.block_kernel_sizes}'
    gates = f'{inspection.gates} {inspection.gate}' if inspection.gate else 'none'
    facts: dict[str, object] = {'what': inspection.what}
    if inspection.known:
        facts |= {
            'depth': f'{inspection.depth} = ' * bool(inspection.depth)
            + f'{_row(inspection.blocks)} {inspection.block} blocks',
            'stem': inspection.stem,
            'shortcut': inspection.shortcut,
            'widths': _row(inspection.out_channels),
            'gates': gates,
            'kernel sizes': sizes,
        }
    facts |= {
        'classes': inspection.classes,
        'tensors': f'{inspection.tensors}, {" and ".join(inspection.dtypes)}',
        'file': ', '.join(filter(None, (inspection.container, inspection.wrapped))),
        'beside': ', '.join(inspection.beside),
        'metadata': ', '.join(f'{k}={v}' for k, v in inspection.metadata.items()),
        'sha256': inspection.sha256,
    }
    lines = [printable(inspection.path)]
    lines += [f'  {k:13} {printable(str(v))}' for k, v in facts.items() if v]
    lines += [
        textwrap.fill(
            printable(note), 86, initial_indent='  ! ', subsequent_indent='    '
        )
        for note in inspection.notes
    ]
    if inspection.backbone:
        lines += ['', *(f'  {printable(s)}' for s in inspection.backbone.split('\n'))]
    elif inspection.known:
        lines += ['', '  No backbone of mmdet or of this package has this network.']
    if inspection.command:
        lines += ['', f'  {printable(inspection.command)}']
    return '\n'.join(lines)


def _row(values: tuple[int | None, ...]) -> str:
    return ', '.join('-' if value is None else str(value) for value in values)


def _summary(done: ConvertedFile, source: str) -> str:
    report = done.report
    renamed = sum(old != new for old, new in report.mapped.items())
    lines = [
        f'{source}: {report.network}, {report.source} -> {report.target}',
        f'  {len(report.mapped)} tensors written to {done.file}, {renamed} under '
        'another name',
        *(f'  {key}: {how}' for key, how in report.changed.items()),
        *(f'  dropped {key} ({reason})' for key, reason in report.dropped.items()),
    ]
    if done.left_out:
        lines.append(f'  not kept, beside the tensors: {", ".join(done.left_out)}')
    return '\n'.join(map(printable, lines))
