"""``eca-mmdet compare-attention``: the demo's detector with several mechanisms."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eca_mmdet import registration
from eca_mmdet.demo import comparison
from eca_mmdet.demo.comparison import Run
from eca_mmdet.evaluation.record import write_json
from eca_mmdet.evaluation.tables import render
from eca_mmdet.mechanisms import KEYS, find_mechanism
from eca_mmdet.run_folder import take_own_folder

_OWN = {'runs', 'comparison.json', 'comparison.md', 'comparison.png'}


def run(args: argparse.Namespace) -> int:
    """Train what is not there yet, count, print and plot."""
    names = _mechanisms(args.mechanisms)
    out = Path(args.out)
    take_own_folder(out, _OWN)
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    console.print('loading mmdet ...')
    registration.register()
    runs = {
        name: [Run(name, seed, args.detector, args.quick) for seed in range(args.seeds)]
        for name in names
    }
    # Seed by seed, so that what an interruption leaves is a comparison of fewer seeds.
    order = [runs[name][seed] for seed in range(args.seeds) for name in names]
    records = _train(order, out, console)
    rows = [
        comparison.summary(name, [records[one] for one in runs[name]]) for name in names
    ]
    console.print('counting and timing ...')
    for row, cost in zip(
        rows, comparison.costs([runs[name][0] for name in names]), strict=True
    ):
        row.update(cost)
    found = {
        'detector': args.detector,
        'seeds': args.seeds,
        'quick': args.quick,
        'rows': rows,
        'note': note(rows, args.quick),
    }
    _write(found, out)
    print(json.dumps(found, indent=1) if args.json else _text(found))
    console.print(f'\n{out / "comparison.png"}')
    return 0


def _mechanisms(names: list[str]) -> list[str]:
    """Return the keys to compare, each once."""
    if 'all' in names:
        return ['none', *KEYS]
    for name in names:
        if name != 'none':
            find_mechanism(name)
    return list(dict.fromkeys(names))


def _train(order: list[Run], out: Path, console: Console) -> dict[Run, dict[str, Any]]:
    """Return the records of all runs; train those that have none."""
    records = {}
    steps = sum(one.iterations for one in order)
    progress = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.percentage:.0f} %'),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task('', total=steps)
        done = 0
        for number, one in enumerate(order, 1):
            title = f'[{number}/{len(order)}] {one.mechanism}, seed {one.seed}'
            progress.update(task, description=title)
            record = comparison.record_of(one, out)
            how = 'measured before'
            if record is None:
                if not console.is_terminal:
                    console.print(f'{title}: training', markup=False)

                def on_step(step: int, done: int = done) -> None:
                    progress.update(task, completed=done + step)

                try:
                    record = comparison.train(one, out, on_step)
                except KeyboardInterrupt:
                    console.print(
                        f'stopped in {one.mechanism}, seed {one.seed}; the same '
                        'command goes on from there'
                    )
                    raise
                how = f'{record["seconds"]:.0f} s'
            records[one] = record
            done += one.iterations
            progress.update(task, completed=done)
            ap = record['results']['bbox']['metrics']['AP']
            shown = 'n/a' if ap is None else f'{100 * ap:.1f}'
            console.print(f'{title}: box AP {shown}, {how}', markup=False)
    return records


def note(rows: list[dict[str, Any]], quick: bool) -> str:
    """Say what the numbers can show, given how far seeds are apart."""
    if quick:
        return (
            'A quick run of a few steps shows that everything runs. Its AP says '
            'nothing about the mechanisms.'
        )
    spreads = [row['ap']['bbox']['deviation'] for row in rows if 'bbox' in row['ap']]
    known = [one for one in spreads if one is not None]
    means = [row['ap']['bbox']['mean'] for row in rows if 'bbox' in row['ap']]
    lines = [
        'What this shows: each mechanism trains in a detector from random weights, and '
        'what it costs there.',
        'What it cannot show: which is best on photographs. Three classes of drawn '
        'shapes, 16 to 128 channels and one short schedule reward other things than '
        'COCO does.',
    ]
    if known and len(means) > 1:
        seeds = len(rows[0]['ap']['bbox']['by_seed'])
        pooled = math.sqrt(sum(one**2 for one in known) / len(known))
        error = pooled * math.sqrt(2 / seeds)
        lines.append(
            f'Seeds differ by {pooled:.1f} box AP (pooled standard deviation), so the '
            f'difference of two means of {seeds} has a standard error of {error:.1f}; '
            f'the means are {max(means) - min(means):.1f} apart at most.'
        )
    else:
        lines.append('One seed says nothing about the spread: use --seeds 3 or more.')
    return '\n'.join(lines)


def _write(found: dict[str, Any], out: Path) -> None:
    from eca_mmdet.atomic import whole_file
    from eca_mmdet.demo.pictures import draw_comparison

    write_json(found, out / 'comparison.json')
    with whole_file(out / 'comparison.md') as partial:
        partial.write_text(_text(found, 'md') + '\n')
    with whole_file(out / 'comparison.png') as partial:
        draw_comparison(found['rows'], partial)


def _text(found: dict[str, Any], style: str = 'table') -> str:
    header = [
        *('mechanism', *(comparison.TASKS[task] for task in _tasks(found))),
        *('layers, params', 'params', 'GMACs', 'kept, MiB', 'step, ms', 'image, ms'),
    ]
    table = render(header, [_cells(row, found) for row in found['rows']], style)
    legend = (
        f'{found["detector"]}, ResNet-18 of a quarter of the width, {found["seeds"]} '
        'seeds; AP 0-100 on held-out shapes, mean ± standard deviation over seeds.\n'
        'kept: by a training step for backward. The backbone alone, in turns: step: '
        'forward and backward of a batch; image: one at inference.'
    )
    return f'{table}\n\n{legend}\n\n{found["note"]}'


def _tasks(found: dict[str, Any]) -> list[str]:
    return [
        task
        for task in comparison.TASKS
        if any(task in row['ap'] for row in found['rows'])
    ]


def _cells(row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        row['mechanism'],
        *(_ap(row['ap'].get(task)) for task in _tasks(found)),
        f'{row["gate_params"]:,}',
        f'{row["params"]:,}',
        f'{row["gmacs"]:.3f}',
        f'{row["saved_mib"]:.1f}',
        f'{row["step_milliseconds"]:.0f}',
        f'{row["inference_milliseconds"]:.1f}',
    ]


def _ap(one: dict[str, Any] | None) -> str:
    if one is None:
        return 'n/a'
    spread = '' if one['deviation'] is None else f' ± {one["deviation"]:.1f}'
    return f'{one["mean"]:.1f}{spread}'
