"""Compare attention mechanisms: train the demo with several seeds, and tabulate."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eca_mmdet import registration
from eca_mmdet.catalog.mechanisms import KEYS, find_mechanism
from eca_mmdet.demo import config
from eca_mmdet.demo.config import TASKS
from eca_mmdet.evaluation.metrics_json import versions
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file, write_json
from eca_mmdet.utils.plotting import new_figure, save_figure

SIDE = 160
"""Of the demo's images, in pixels."""

_STEP = re.compile(r'\s+(\d+)/(\d+)  loss')
_RUNS = 'runs'

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        mechanism: key, or 'none'.
        seed: of data, weights and sampling.
        detector: 'faster', 'mask' or 'retinanet'.
        quick: a few steps only.
    """

    mechanism: str
    seed: int
    detector: str
    quick: bool

    @functools.cached_property
    def iterations(self) -> int:
        """Steps of the run."""
        return int(self._config.train_cfg.max_iters)

    @functools.cached_property
    def name(self) -> str:
        """Of its folder; a run of another config or version has another."""
        parts = [self._config.to_dict(), versions()]
        text = json.dumps(parts, sort_keys=True, default=repr)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f'{self.detector}-{self.mechanism}-seed{self.seed}-{digest}'

    @functools.cached_property
    def _config(self) -> Any:
        return self.compose()

    def compose(self) -> Any:
        """Return the run's config, with a data root that is not there."""
        cfg = config.compose(self.detector, self.mechanism, 18, Path('data'), self.seed)
        if self.quick:
            config.shorten(cfg)
        return cfg

    def folder(self, out: Path) -> Path:
        """Return where it goes in a comparison's folder."""
        return out / _RUNS / self.name


def resolve_mechanisms(names: Sequence[str]) -> list[str]:
    """Return the keys to compare, each once; 'all' stands for every mechanism."""
    for name in names:
        if name not in ('none', 'all'):
            find_mechanism(name)
    if 'all' in names:
        return ['none', *KEYS]
    return list(dict.fromkeys(names))


def compare(
    mechanisms: Sequence[str],
    out: Path,
    console: Console,
    seeds: int = 3,
    detector: str = 'mask',
    quick: bool = False,
) -> dict[str, Any]:
    """Train what is not there yet, and return AP and costs of each mechanism.

    Args:
        mechanisms: keys, or 'none'.
        out: folder of the comparison; finished runs in it are kept.
        console: for the progress.
        seeds: runs of each mechanism.
        detector: 'faster', 'mask' or 'retinanet'.
        quick: a few steps only.

    Raises:
        UserError: a training failed, or another comparison runs in the folder.
    """
    registration.register()
    runs = {
        name: [Run(name, seed, detector, quick) for seed in range(seeds)]
        for name in mechanisms
    }
    # Seed by seed, so that what an interruption leaves is a comparison of fewer seeds.
    order = [runs[name][seed] for seed in range(seeds) for name in mechanisms]
    with only_one(out):
        records = _train_all(order, out, console)
        rows = [
            summary(name, [records[run] for run in runs[name]]) for name in mechanisms
        ]
        console.print('counting and timing ...')
        for row, cost in zip(
            rows, costs([runs[name][0] for name in mechanisms]), strict=True
        ):
            row.update(cost)
    return {
        'detector': detector,
        'seeds': seeds,
        'quick': quick,
        'rows': rows,
        'note': note(rows, quick),
    }


def _train_all(
    order: list[Run], out: Path, console: Console
) -> dict[Run, dict[str, Any]]:
    """Return the records of all runs; train those without a record."""
    records = {}
    steps = sum(run.iterations for run in order)
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
        for number, run in enumerate(order, 1):
            title = f'[{number}/{len(order)}] {run.mechanism}, seed {run.seed}'
            progress.update(task, description=title)

            def on_step(step: int, done: int = done) -> None:
                progress.update(task, completed=done + step)

            try:
                record, how = _record(run, title, out, console, on_step)
            except KeyboardInterrupt:
                console.print(
                    f'stopped in {run.mechanism}, seed {run.seed}; finished runs are '
                    'kept, and the same command begins with that one'
                )
                raise
            records[run] = record
            done += run.iterations
            progress.update(task, completed=done)
            ap = ap_of(record, 'bbox')
            shown = 'n/a' if ap is None else f'{100 * ap:.1f}'
            console.print(f'{title}: box AP {shown}, {how}', markup=False)
    return records


def _record(
    run: Run, title: str, out: Path, console: Console, on_step: OnStep
) -> tuple[dict[str, Any], str]:
    """Return a run's record, and whether it was measured before or how long it took."""
    record = record_of(run, out)
    if record is not None:
        return record, 'measured before'
    if not console.is_terminal:
        console.print(f'{title}: training', markup=False)
    record = train(run, out, on_step)
    return record, f'{record["seconds"]:.0f} s'


def record_of(run: Run, out: Path) -> dict[str, Any] | None:
    """Return the record of a finished run, None if it is not there or damaged."""
    try:
        record = json.loads((run.folder(out) / 'metrics.json').read_text())
        same = (record['attention'], record['seed']) == (run.mechanism, run.seed)
        numbers = [record['seconds'], *(ap_of(record, task) for task in TASKS)]
        sound = all(n is None or isinstance(n, (int, float)) for n in numbers)
        return dict(record) if same and sound and record['results'] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def ap_of(record: dict[str, Any], task: str) -> float | None:
    """Return a run's AP (0-1); None without that task or without objects."""
    found = record['results'].get(task)
    return None if found is None else found['metrics']['AP']


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Lock the folder against a second comparison.

    Raises:
        UserError: one is running there, or nothing can be written there.
    """
    try:
        lock = open(out / '.lock', 'w')
    except OSError as error:
        raise UserError(
            f'--out {out} cannot be written to: {error}.', code='file-not-written'
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f'another compare-attention is running in {out}; wait for it, or name '
                'another folder with --out.',
                code='folder-in-use',
            ) from error
        yield


def train(run: Run, out: Path, on_step: OnStep) -> dict[str, Any]:
    """Train in a process of its own; the folder appears when it is complete.

    Args:
        run: what.
        out: the comparison's folder.
        on_step: called with the number of steps done.

    Raises:
        UserError: the training failed; with its last line.
    """
    folder = run.folder(out)
    partial = folder.with_name(f'{folder.name}.partial')
    log = folder.with_name(f'{folder.name}.log')
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        for left in (partial, folder):  # of an interrupted run, or damaged
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f'{folder} cannot be made: {error}.', code='file-not-written'
        ) from error
    command = [sys.executable, '-m', 'eca_mmdet.cli', 'demo']
    command += ['--detector', run.detector, '--attention', run.mechanism]
    command += ['--seed', str(run.seed), '--out', str(partial)]
    command += ['--no-report', *['--quick'] * run.quick]
    code = _follow(command, log, on_step)
    if code:
        lines = list(filter(None, log.read_text(errors='replace').splitlines()))
        last = lines[-1][:300] if lines else 'it printed nothing'
        raise UserError(
            f'{run.mechanism}, seed {run.seed}: the training ended with exit code '
            f'{code}: {last} (all of it: {log})',
            code='run-failed',
        )
    partial.rename(folder)
    record = record_of(run, out)
    if record is None:
        raise UserError(
            f'the training left no complete metrics.json in {folder}.',
            code='run-failed',
        )
    return record


def _follow(command: list[str], log: Path, on_step: OnStep) -> int:
    """Run a command with its output in a file; return its exit code."""
    with open(log, 'w') as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                file.flush()
                step = _STEP.match(line)
                if step:
                    on_step(int(step[1]))
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def summary(mechanism: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return AP (0-100) by seed, its mean and sample deviation.

    Args:
        mechanism: key, or 'none'.
        records: of its runs.
    """
    found: dict[str, Any] = {'mechanism': mechanism, 'ap': {}}
    for task in TASKS:
        values = [
            100 * value
            for record in records
            if (value := ap_of(record, task)) is not None
        ]
        if values:
            found['ap'][task] = {
                'by_seed': values,
                'mean': statistics.mean(values),
                'deviation': statistics.stdev(values) if len(values) > 1 else None,
            }
    return found


def costs(runs: list[Run]) -> list[dict[str, Any]]:
    """Count and time the detectors of some runs, one of each mechanism.

    Returns:
        For each run ``params`` and, of the attention layers alone, ``gate_params``;
        ``gmacs`` of one image; ``saved_mib`` that a training step keeps for backward;
        the backbone's ``inference_milliseconds`` of one image and
        ``step_milliseconds`` (forward and backward of a batch), measured in turns.
    """
    from eca_mmdet.analysis.attention import time_layers
    from eca_mmdet.analysis.complexity.exact import exact_cost
    from eca_mmdet.analysis.latency import ROUNDS, training_steps
    from eca_mmdet.engine.config import build_model

    found, backbones = [], []
    for run in runs:
        cfg = run.compose()
        counted = exact_cost(build_model(cfg, 'meta'), cfg, (SIDE, SIDE))
        backbone = build_model(cfg).backbone
        backbone.eval()
        backbones.append(backbone)
        found.append(
            {
                'params': counted.total.params,
                'gate_params': counted.gates.params,
                'gmacs': counted.total.macs / 1e9,
                'saved_mib': counted.total.saved_bytes / 2**20,
            }
        )
    images = time_layers(backbones, (1, 3, SIDE, SIDE), ROUNDS)
    steps = training_steps(backbones, (counted.images, 3, SIDE, SIDE))
    for cost, image, step in zip(found, images, steps, strict=True):
        cost['inference_milliseconds'] = image
        cost['step_milliseconds'] = step
    return found


def write_comparison(found: dict[str, Any], out: Path) -> None:
    """Write a comparison as JSON, Markdown and a plot."""
    write_json(out / 'comparison.json', found)
    with whole_file(out / 'comparison.md') as partial:
        partial.write_text(comparison_text(found, 'md') + '\n')
    draw_comparison(found['rows'], out / 'comparison.png')


def comparison_text(found: dict[str, Any], style: str = 'table') -> str:
    """Return the table with its legend and note.

    Args:
        found: of :func:`eca_mmdet.demo.comparison.compare`.
        style: of :func:`eca_mmdet.evaluation.tables.render`.
    """
    header = [
        *('mechanism', *(TASKS[task] for task in _tasks(found))),
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
    return [task for task in TASKS if any(task in row['ap'] for row in found['rows'])]


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
    """Plot box AP against parameters and against the time of a training step.

    Args:
        rows: of ``eca-mmdet compare-attention``.
        path: PNG to write.
    """
    rows = [row for row in rows if 'bbox' in row['ap']]
    costs = {
        'attention layers, parameters': 'gate_params',
        'training step of the backbone, ms': 'step_milliseconds',
    }
    figure, panels = new_figure(
        1, 2, figsize=(10, 4.5), layout='constrained', sharey=True
    )
    for axes, (label, key) in zip(panels, costs.items(), strict=True):
        for row in rows:
            _draw_mechanism(axes, row, row[key])
        axes.set(xlabel=label)
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


def _draw_mechanism(axes: Any, row: dict[str, Any], cost: float) -> None:
    colour = {'eca': '#d55e00', 'none': '#000000'}.get(row['mechanism'], '#0072b2')
    ap = row['ap']['bbox']
    axes.plot([cost] * len(ap['by_seed']), ap['by_seed'], '.', color=colour, alpha=0.35)
    axes.errorbar(
        cost, ap['mean'], yerr=ap['deviation'], fmt='o', color=colour, capsize=3
    )
    axes.annotate(
        row['mechanism'],
        (cost, ap['mean']),
        xytext=(6, 4),
        textcoords='offset points',
        fontsize=8,
        color=colour,
    )
