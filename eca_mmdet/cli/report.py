"""``eca-mmdet report``: one page of one or more runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eca_mmdet.reporting.run import Run, read_run
from eca_mmdet.reporting.writing import require_replaceable, write_report
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import printable

MOST_RUNS = 8


def run(args: argparse.Namespace) -> int:
    """Gather the runs, write the page, and say what is missing on it."""
    paths = _paths(args.runs)
    target = _target(args.out, paths)
    labels = _labels(paths, args.labels)
    runs = [
        one
        for path, label in zip(paths, labels, strict=True)
        for one in read_run(path, label)
    ]
    _require_few(runs)
    _distinguish(runs)
    replaced = target.exists()
    write_report(
        runs,
        target,
        examples=args.examples,
        images=args.images,
        annotations=args.ann,
        gate_images=args.gate_images,
        model=not args.no_model,
    )
    for one in runs:
        for line in dict.fromkeys(one.missing):
            print(printable(f'not shown of {one.label}: {line}'), file=sys.stderr)
    before = ', in place of the one before' if replaced else ''
    print(printable(f'page{before}: {target}'))
    return 0


def _paths(names: Sequence[str]) -> list[Path]:
    if not all(names):
        raise UserError('a run has an empty name; the folder here is called "."')
    return [Path(one) for one in names]


def _require_few(runs: Sequence[Run]) -> None:
    if len(runs) > MOST_RUNS:
        raise UserError(
            f'a page shows up to {MOST_RUNS} runs, since more colours could not be '
            f'told apart; got {len(runs)}, each result file of an evaluation counted.'
        )


def _distinguish(runs: Sequence[Run]) -> None:
    """Number the result files of several evaluations that share a name."""
    names = [one.label for one in runs]
    for index, one in enumerate(runs):
        if names.count(one.label) > 1 and one.label in names[:index]:
            one.label = f'{one.label} ({names[: index + 1].count(one.label)})'


def _target(out: str | None, paths: Sequence[Path]) -> Path:
    if out is not None:
        target = Path(out)
    elif len(paths) == 1 and paths[0].is_dir():
        target = paths[0] / 'report.html'
    else:
        target = Path('report.html')
    require_replaceable(target)
    return target


def _labels(paths: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    """Return a name for each run: those given, or as much of the path as it takes."""
    if labels:
        if len(labels) != len(paths) or len(set(labels)) != len(labels):
            raise UserError(
                f'--labels takes a name for each of the {len(paths)} runs, no two '
                f'alike; got {" ".join(map(repr, labels))}.'
            )
        return list(labels)
    parts = [path.resolve().parts[1:] or ('/',) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError('a run is named twice; name each once.')
