"""Compare attention mechanisms: train the demo with several seeds, and tabulate."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from eca_mmdet import registration
from eca_mmdet.catalog.mechanisms import KEYS, find_mechanism
from eca_mmdet.demo.run import TASKS, compose, shorten
from eca_mmdet.engine.checkpointing import locked_folder
from eca_mmdet.evaluation.coco_eval import versions
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.errors import CommandError, UserError
from eca_mmdet.utils.images import new_figure, save_figure
from eca_mmdet.utils.io import read_record, run_logged

SIDE = 160  # height and width of the demo's images, in pixels
_COSTS = (
    *(('gate_params', ','), ('params', ','), ('gmacs', '.3f'), ('saved_mib', '.1f')),
    *(('step_milliseconds', '.0f'), ('inference_milliseconds', '.1f')),
)
"""Keys and formats of the table's columns."""


@dataclass(frozen=True)
class Run:
    """One training; its mechanism is a key, or 'none'."""

    mechanism: str
    seed: int
    detector: str
    quick: bool

    def __str__(self) -> str:
        return f'{self.mechanism}, seed {self.seed}'

    @functools.cached_property
    def config(self) -> Any:
        """The run's config, with a data root that is not there."""
        cfg = compose(self.detector, self.mechanism, 18, Path('data'), self.seed)
        if self.quick:
            shorten(cfg)
        return cfg

    @functools.cached_property
    def name(self) -> str:
        """Name of its folder, which depends on the config and on versions."""
        parts = [self.config.to_dict(), versions()]
        text = json.dumps(parts, sort_keys=True, default=repr)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f'{self.detector}-{self.mechanism}-seed{self.seed}-{digest}'


def resolve_mechanisms(names: Sequence[str]) -> list[str]:
    """Return the keys to compare, each once; 'all' stands for every mechanism."""
    keys = [n if n in ('none', 'all') else find_mechanism(n).key for n in names]
    return ['none', *KEYS] if 'all' in keys else list(dict.fromkeys(keys))


def compare(
    mechanisms: Sequence[str],
    out: Path,
    console: Console,
    seeds: int = 3,
    detector: str = 'mask',
    quick: bool = False,
) -> dict[str, Any]:
    """Train each mechanism with seeds 0, 1, ...; return AP and costs of each.

    Finished runs in the folder ``out`` are kept. ``quick`` trains a few steps only.
    """
    registration.register()
    runs = {
        name: [Run(name, seed, detector, quick) for seed in range(seeds)]
        for name in mechanisms
    }
    # Seed by seed, so that what an interruption leaves is a comparison of fewer seeds.
    order = [runs[name][seed] for seed in range(seeds) for name in mechanisms]
    with locked_folder(out, 'comparison', '--out'):
        records = _train_all(order, out / 'runs', console)
        console.print('counting and timing ...')
        counted = costs([runs[name][0] for name in mechanisms])
        rows = [
            summary(name, [records[run] for run in runs[name]]) | cost
            for name, cost in zip(mechanisms, counted, strict=True)
        ]
    settings = {'detector': detector, 'seeds': seeds, 'quick': quick}
    return {**settings, 'rows': rows, 'note': note(rows, quick)}


def _train_all(
    order: list[Run], folder: Path, console: Console
) -> dict[Run, dict[str, Any]]:
    """Return the records of all runs; train those without a record."""
    records = {}
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task('', total=len(order))
        for number, run in enumerate(order, 1):
            title = f'[{number}/{len(order)}] {run}'
            progress.update(task, description=title)
            record, how = record_of(run, folder), 'measured before'
            if record is None:
                try:
                    console.print(f'{title}: training', markup=False)
                    record = train(run, folder)
                except KeyboardInterrupt:
                    console.print(
                        f'stopped in {run}; finished runs are kept, and the same '
                        'command begins with that one'
                    )
                    raise
                how = f'{record["seconds"]:.0f} s'
            records[run] = record
            ap = ap_of(record, 'bbox')
            shown = 'n/a' if ap is None else f'{100 * ap:.1f}'
            console.print(f'{title}: box AP {shown}, {how}', markup=False)
            progress.advance(task)
    return records


def record_of(run: Run, folder: Path) -> dict[str, Any] | None:
    """Return the record of a finished run, None if it is not there or damaged."""

    def is_sound(record: Any) -> bool:
        same = (record['attention'], record['seed']) == (run.mechanism, run.seed)
        numbers = [record['seconds'], *(ap_of(record, task) for task in TASKS)]
        sound = all(n is None or isinstance(n, (int, float)) for n in numbers)
        return bool(same and sound and record['results'])

    return read_record(folder / run.name / 'metrics.json', is_sound)


def ap_of(record: dict[str, Any], task: str) -> float | None:
    """Return a run's AP (0-1); None without that task or without objects."""
    result = record['results'].get(task)
    return None if result is None else result['metrics']['AP']


def train(run: Run, folder: Path) -> dict[str, Any]:
    """Train in a process of its own; the folder appears when it is complete."""
    final = folder / run.name
    partial = folder / f'{run.name}.partial'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in (partial, final):  # of an interrupted run, or damaged
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f'{final} cannot be made: {error}.', code='file-not-written'
        ) from error
    command = [sys.executable, '-m', 'eca_mmdet.cli', 'demo']
    command += ['--detector', run.detector, '--attention', run.mechanism]
    command += ['--seed', str(run.seed), '--out', str(partial)]
    command += ['--no-report', *['--quick'] * run.quick]
    try:
        run_logged(command, folder / f'{run.name}.log')
        partial.rename(final)
        record = record_of(run, folder)
        if record is None:
            raise CommandError(f'it left no complete metrics.json in {final}.')
    except CommandError as error:
        raise UserError(
            f'{run}: the training failed: {error}', code=error.code
        ) from error
    return record


def summary(mechanism: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return AP (0-100) by seed, its mean and sample deviation."""
    ap = {}
    for task in TASKS:
        known = [ap_of(record, task) for record in records]
        values = [100 * value for value in known if value is not None]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            mean = statistics.mean(values)
            ap[task] = {'by_seed': values, 'mean': mean, 'deviation': deviation}
    return {'mechanism': mechanism, 'ap': ap}


def costs(runs: list[Run]) -> list[dict[str, Any]]:
    """Count and time the detectors of some runs, one of each mechanism.

    ``gate_params`` are those of the attention layers, ``gmacs`` are for one image, and
    a training step keeps ``saved_mib`` for backward. The backbone's
    times at inference (one image) and of a step (forward and backward of a batch) are
    measured in turns.
    """
    from eca_mmdet.analysis.attention import time_layers
    from eca_mmdet.analysis.complexity import ROUNDS, training_steps
    from eca_mmdet.analysis.exact_cost import exact_cost
    from eca_mmdet.engine.config import build_model

    rows, backbones = [], []
    for run in runs:
        model = build_model(run.config, 'meta')
        counted = exact_cost(model, run.config, (SIDE, SIDE))
        backbones.append(build_model(run.config).backbone)
        backbones[-1].eval()  # mmdet's returns None
        rows.append(
            {
                'params': counted.total.params,
                'gate_params': counted.gates.params,
                'gmacs': counted.total.macs / 1e9,
                'saved_mib': counted.total.saved_bytes / 2**20,
            }
        )
    images = time_layers(backbones, (1, 3, SIDE, SIDE), ROUNDS)
    steps = training_steps(backbones, (counted.images, 3, SIDE, SIDE))
    for row, image, step in zip(rows, images, steps, strict=True):
        row['inference_milliseconds'] = image
        row['step_milliseconds'] = step
    return rows


def comparison_text(result: dict[str, Any], style: str = 'table') -> str:
    """Return the table in a style of ``render``, with its legend and note."""
    rows = result['rows']
    tasks = [task for task in TASKS if any(task in row['ap'] for row in rows)]
    header = [
        *('mechanism', *(TASKS[task] for task in tasks)),
        *('layers, params', 'params', 'GMACs', 'kept, MiB', 'step, ms', 'image, ms'),
    ]
    table = render(header, [_cells(row, tasks) for row in rows], style)
    legend = (
        f'{result["detector"]}, ResNet-18 of a quarter of the width, seeds 0 to '
        f'{result["seeds"] - 1}; AP 0-100 on held-out shapes, mean ± standard '
        'deviation over seeds.\n'
        'kept: by a training step for backward. The backbone alone, in turns: step: '
        'forward and backward of a batch; image: one at inference.'
    )
    return f'{table}\n\n{legend}\n\n{result["note"]}'


def _cells(row: dict[str, Any], tasks: list[str]) -> list[str]:
    aps = (_ap(row['ap'].get(task)) for task in tasks)
    return [row['mechanism'], *aps, *(f'{row[key]:{form}}' for key, form in _COSTS)]


def _ap(ap: dict[str, Any] | None) -> str:
    if ap is None:
        return 'n/a'
    spread = '' if ap['deviation'] is None else f' ± {ap["deviation"]:.1f}'
    return f'{ap["mean"]:.1f}{spread}'


def note(rows: list[dict[str, Any]], quick: bool) -> str:
    """Return what the numbers can show, given the spread over seeds."""
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
    spreads = [box['deviation'] for box in boxes if box['deviation'] is not None]
    if not spreads:
        lines.append('One seed says nothing about the spread: use --seeds 3 or more.')
        return '\n'.join(lines)
    pooled = math.sqrt(sum(spread**2 for spread in spreads) / len(spreads))
    lines.append(f'Seeds differ by {pooled:.1f} box AP (pooled standard deviation).')
    if len(boxes) > 1:
        seeds = min(len(box['by_seed']) for box in boxes)
        error = pooled * math.sqrt(2 / seeds)
        means = [box['mean'] for box in boxes]
        lines.append(
            f'The difference of two means of {seeds} seeds has a standard error of '
            f'{error:.1f}; the means are {max(means) - min(means):.1f} apart at most.'
        )
    return '\n'.join(lines)


def draw_comparison(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot box AP against parameters and against the time of a training step."""
    rows = [row for row in rows if 'bbox' in row['ap']]
    size = (10, 4.5)
    figure, panels = new_figure(1, 2, figsize=size, layout='constrained', sharey=True)
    panels[0].set(xlabel='attention layers, parameters')
    panels[1].set(xlabel='training step of the backbone, ms')
    for axes, key in zip(panels, ('gate_params', 'step_milliseconds'), strict=True):
        for row in rows:
            colour = {'eca': '#d55e00', 'none': '#000000'}.get(row['mechanism'])
            ap, style = row['ap']['bbox'], {'color': colour or '#0072b2'}
            cost, seeds = row[key], ap['by_seed']
            axes.plot([cost] * len(seeds), seeds, '.', alpha=0.35, **style)
            at = (cost, ap['mean'])
            axes.errorbar(*at, yerr=ap['deviation'], fmt='o', capsize=3, **style)
            near = {'xytext': (6, 4), 'textcoords': 'offset points'}
            axes.annotate(row['mechanism'], at, fontsize=8, **near, **style)
        axes.grid(alpha=0.3)
        axes.margins(x=0.12, y=0.12)
    if any(row['gate_params'] for row in rows):
        panels[0].set_xscale('symlog', linthresh=10)
        panels[0].set_xlim(left=-2)
    panels[0].set(ylabel='box AP on held-out shapes, 0-100')
    seeds = len(rows[0]['ap']['bbox']['by_seed']) if rows else 0
    figure.suptitle(
        f'large: mean of {seeds} seeds, bar: standard deviation, small: each seed',
        fontsize=9,
    )
    save_figure(figure, path)
