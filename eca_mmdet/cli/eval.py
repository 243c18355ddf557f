"""``eca-mmdet eval``: COCO numbers of saved predictions. Needs no mmdet."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth, read_ground_truth
from eca_mmdet.datasets.results import read_results
from eca_mmdet.evaluation.bootstrap import Difference, difference
from eca_mmdet.evaluation.coco_eval import check_max_dets, evaluate
from eca_mmdet.evaluation.error_analysis import analyze
from eca_mmdet.evaluation.metrics_json import as_json, make_record
from eca_mmdet.evaluation.result_tables import Evaluated, result_tables
from eca_mmdet.evaluation.tables import TITLES
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import make_run_folder, require_free, write_json
from eca_mmdet.utils.text import printable


def run(args: argparse.Namespace) -> int:
    """Read, evaluate, print and record."""
    limits = _limits(args.max_dets)
    if args.out:
        require_free(args.out)
    truth, files, notes = _evaluate(args, limits)
    for note in notes:
        _tell(f'note: {note}')
    differences = _differences(truth, files, args, limits)
    out = make_run_folder(args.out, 'eval')
    record = _record(args, truth, files, differences, notes)
    if args.analysis:
        record['analysis'] = _analyses(truth, files, out, args, limits)
    write_json(out / 'metrics.json', record)
    if args.format == 'json':
        print(json.dumps(record, indent=1))
    else:
        print(result_tables(truth, files, differences, args.classwise, args.format))
    _tell(f'all numbers: {out / "metrics.json"}')
    return 0


def _evaluate(
    args: argparse.Namespace, limits: tuple[int, ...]
) -> tuple[GroundTruth, list[Evaluated], list[str]]:
    """Read and evaluate each file; also return the objects, and what is to be told."""
    whole = read_ground_truth(args.ann)
    truth = _only(whole, args.classes) if args.classes else whole
    notes = list(truth.notes)
    files = []
    for path, label in zip(args.results, _labels(args.results), strict=True):
        read = read_results(path, whole, args.types)
        notes += read.notes
        found = {task: _move(one, whole, truth) for task, one in read.found.items()}
        results = {
            task: evaluate(truth, one, task, limits, args.backend)
            for task, one in found.items()
        }
        files.append(Evaluated(path, label, read.sha256, found, results))
    if not any('segm' in one.found for one in files):
        truth = truth.without_masks()
    return truth, files, notes


def _tell(line: str) -> None:
    """Say something that is not the result; stdout has the result alone."""
    print(printable(line), file=sys.stderr)


def _limits(max_dets: Sequence[int]) -> tuple[int, ...]:
    try:
        return check_max_dets(max_dets)
    except ValueError as error:
        raise UserError(f'--max-dets: {error}') from error


def _only(truth: GroundTruth, classes: Sequence[str]) -> GroundTruth:
    unknown = [name for name in classes if name not in truth.category_names]
    if unknown:
        raise UserError(
            f'--classes: {", ".join(map(repr, unknown))} not in {truth.source}, which '
            f'has {", ".join(map(repr, truth.category_names[:10]))}'
            f'{", ..." if len(truth.category_names) > 10 else ""}.'
        )
    return truth.only(classes)


def _move(found: Detections, whole: GroundTruth, part: GroundTruth) -> Detections:
    """Keep the detections of the classes of a part, in its positions."""
    if part is whole:
        return found
    at = {one: index for index, one in enumerate(part.category_ids)}
    moved = np.array([at.get(one, -1) for one in whole.category_ids], np.int64)
    category = moved[found.category]
    kept = np.flatnonzero(category >= 0)
    return replace(found.take(kept), category=category[kept])


def _labels(paths: Sequence[str]) -> list[str]:
    """Return file names without the suffix, or paths where those are not enough."""
    names = [Path(path).name.removesuffix('.json') for path in paths]
    if len(set(names)) == len(names):
        return names
    if len(set(paths)) == len(paths):
        return list(paths)
    return [f'{index}: {path}' for index, path in enumerate(paths, 1)]


def _differences(
    truth: GroundTruth,
    files: Sequence[Evaluated],
    args: argparse.Namespace,
    limits: tuple[int, ...],
) -> list[dict[str, Difference]]:
    """Return each further file minus the first, for the tasks that both have."""
    first = files[0]
    if not files[1:]:
        return []
    with Progress(console=Console(stderr=True), transient=True) as progress:

        def compare(other: Evaluated, task: str) -> Difference:
            bar = progress.add_task(
                f'bootstrap, {other.label}, {TITLES[task]}', total=args.bootstrap
            )
            return difference(
                truth,
                (first.results[task], first.found[task]),
                (other.results[task], other.found[task]),
                args.bootstrap,
                args.seed,
                limits,
                lambda done: progress.update(bar, completed=done),
            )

        return [
            {t: compare(other, t) for t in other.results if t in first.results}
            for other in files[1:]
        ]


def _record(
    args: argparse.Namespace,
    truth: GroundTruth,
    files: Sequence[Evaluated],
    differences: Sequence[dict[str, Difference]],
    notes: Sequence[str],
) -> dict[str, Any]:
    first = files[0]
    record = make_record(
        list(first.results.values()),
        {'file': args.ann, 'sha256': truth.sha256},
        args.backend,
        predictions=first.source,
        classes=args.classes,
        notes=list(notes),
    )
    if files[1:]:
        record['bootstrap'] = {'samples': args.bootstrap, 'seed': args.seed}
        record['others'] = [
            {
                'predictions': other.source,
                'results': {t: as_json(one) for t, one in other.results.items()},
                'minus_first': {t: asdict(one) for t, one in minus.items()},
            }
            for other, minus in zip(files[1:], differences, strict=True)
        ]
    return record


def _analyses(
    truth: GroundTruth,
    files: Sequence[Evaluated],
    out: Path,
    args: argparse.Namespace,
    limits: tuple[int, ...],
) -> list[dict[str, Any]]:
    """Analyse each file; with several, each draws into a folder of its own."""
    analyses = []
    for index, one in enumerate(files, 1):
        folder = out if len(files) == 1 else out / f'{index}-{Path(one.path).stem}'
        folder.mkdir(exist_ok=True)
        parts = {
            task: analyze(truth, found, task, args.score_thr, folder, limits)
            for task, found in one.found.items()
        }
        analyses.append({'file': os.fspath(one.path), **parts})
        _tell(f'pictures: {folder}')
    return analyses
