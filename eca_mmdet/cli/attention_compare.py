"""``eca-mmdet attention compare``: the demo's detector with several mechanisms."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from eca_mmdet.cli.common import Adder, Commands, at_least_1

_OWN = {'runs', 'comparison.json', 'comparison.md', 'comparison.png'}


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    compare = commands.add_parser(
        'attention compare',
        help='train the small detector with several mechanisms, and compare',
        description='Train the detector of eca-mmdet demo with each mechanism and '
        'seed, and print AP with its spread, parameters, time and memory. Finished '
        'runs are kept; the same command goes on after an interruption.',
    )
    add = Adder(compare)
    default = ['none', 'se', 'cbam', 'eca']
    text = (
        f"of eca-mmdet attention list, 'none', or 'all' (default: {' '.join(default)})"
    )
    add('--mechanisms', nargs='+', metavar='NAME', default=default, help=text)
    add('--seeds', type=at_least_1, default=3, metavar='N', help='default: 3')
    add('--detector', choices=('faster', 'mask', 'retinanet'), default='mask')
    add.flag('--quick', '12 steps a run; shows that everything runs, compares nothing')
    add.value('--out', 'DIR', 'runs and results', 'runs/compare-attention')
    add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Compare; print the table and where the plot is."""
    from rich.console import Console

    from eca_mmdet.demo.comparison import (
        compare,
        comparison_text,
        draw_comparison,
        resolve_mechanisms,
    )
    from eca_mmdet.utils.io import take_own_folder, write_json, write_texts

    mechanisms = resolve_mechanisms(args.mechanisms)
    out = Path(args.out)
    take_own_folder(out, _OWN)
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    console.print('loading mmdet ...')
    result = compare(mechanisms, out, console, args.seeds, args.detector, args.quick)
    write_json(out / 'comparison.json', result)
    write_texts({out / 'comparison.md': comparison_text(result, 'md') + '\n'})
    draw_comparison(result['rows'], out / 'comparison.png')
    print(json.dumps(result, indent=1) if args.json else comparison_text(result))
    console.print(f'\n{out / "comparison.png"}')
    return 0
