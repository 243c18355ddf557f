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
from eca_mmdet.catalog.mechanisms import KEYS, find_mechanism
from eca_mmdet.demo import comparison
from eca_mmdet.demo.comparison import Run
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.io import take_own_folder, write_json

_OWN = {'runs', 'comparison.json', 'comparison.md', 'comparison.png'}


def run(args: argparse.Namespace) -> int:
    """Train what is not there yet, count, print and plot."""
    names = _mechanisms(args.mechanisms)
    out = Path(args.out)
    take_own_folder(out, _OWN)
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    with comparison.only_one(out):
        found = _compare(args, names, out, console)
        _write(found, out)
    print(json.dumps(found, indent=1) if args.json else _text(found))
    console.print(f'\n{out / "comparison.png"}')
    return 0


def _compare(
    args: argparse.Namespace, names: list[str], out: Path, console: Console
) -> dict[str, Any]:
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
    costs = comparison.costs([runs[name][0] for name in names])
    for row, cost in zip(rows, costs, strict=True):
        row.update(cost)
    return {
        'detector': args.detector,
        'seeds': args.seeds,
        'quick': args.quick,
        'rows': rows,
        'note': note(rows, args.quick),
    }


def _mechanisms(names: list[str]) -> list[str]:
    """Return the keys to compare, each once."""
    for name in names:
        if name not in ('none', 'all'):
            find_mechanism(name)
    if 'all' in names:
        return ['none', *KEYS]
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

            def on_step(step: int, done: int = done) -> None:
                progress.update(task, completed=done + step)

            try:
                record, how = _record(one, title, out, console, on_step)
            except KeyboardInterrupt:
                console.print(
                    f'stopped in {one.mechanism}, seed {one.seed}; finished runs are '
                    'kept, and the same command begins with that one'
                )
                raise
            records[one] = record
            done += one.iterations
            progress.update(task, completed=done)
            ap = comparison.ap_of(record, 'bbox')
            shown = 'n/a' if ap is None else f'{100 * ap:.1f}'
            console.print(f'{title}: box AP {shown}, {how}', markup=False)
    return records


def _record(
    run: Run, title: str, out: Path, console: Console, on_step: comparison.OnStep
) -> tuple[dict[str, Any], str]:
    """Return a run's record and where it comes from."""
    record = comparison.record_of(run, out)
    if record is not None:
        return record, 'measured before'
    if not console.is_terminal:
        console.print(f'{title}: training', markup=False)
    record = comparison.train(run, out, on_step)
    return record, f'{record["seconds"]:.0f} s'


def note(rows: list[dict[str, Any]], quick: bool) -> str:
    """Say what the numbers can show, given how far seeds are apart."""
    if quick:
        return (
            'A quick run of a few steps shows that everything runs. Its AP says '
            'nothing about the mechanisms.'
        )
    lines = [
        'What this shows: each mechanism trains in a detector from random weights, and '
        'what it costs there.',
        'What it cannot show: which is best on photographs. Three classes of drawn '
        'shapes, 16 to 128 channels and one short schedule reward other things than '
        'COCO does.',
    ]
    boxes = [row['ap']['bbox'] for row in rows if 'bbox' in row['ap']]
    spreads = [one['deviation'] for one in boxes if one['deviation'] is not None]
    if not spreads:
        lines.append('One seed says nothing about the spread: use --seeds 3 or more.')
        return '\n'.join(lines)
    pooled = math.sqrt(sum(one**2 for one in spreads) / len(spreads))
    lines.append(f'Seeds differ by {pooled:.1f} box AP (pooled standard deviation).')
    if len(boxes) > 1:
        seeds = min(len(one['by_seed']) for one in boxes)
        error = pooled * math.sqrt(2 / seeds)
        means = [one['mean'] for one in boxes]
        lines.append(
            f'The difference of two means of {seeds} seeds has a standard error of '
            f'{error:.1f}; the means are {max(means) - min(means):.1f} apart at most.'
        )
    return '\n'.join(lines)


def _write(found: dict[str, Any], out: Path) -> None:
    from eca_mmdet.demo.pictures import draw_comparison
    from eca_mmdet.utils.io import whole_file

    write_json(out / 'comparison.json', found)
    with whole_file(out / 'comparison.md') as partial:
        partial.write_text(_text(found, 'md') + '\n')
    draw_comparison(found['rows'], out / 'comparison.png')


def _text(found: dict[str, Any], style: str = 'table') -> str:
    header = [
        *('mechanism', *(comparison.TASKS[task] for task in _tasks(found))),
        *('layers, params', 'params', 'GMACs', 'kept, MiB', 'step, ms', 'image, ms'),
    ]
    table = render(header, [_cells(row, found) for row in found['rows']], style)
    legend = (
        f'{found["detector"]}, ResNet-18 of a quarter of the width, seeds 0 to '
        f'{found["seeds"] - 1}; AP 0-100 on held-out shapes, mean ± standard '
        'deviation over seeds.\n'
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
