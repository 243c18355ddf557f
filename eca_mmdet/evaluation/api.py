"""COCO metrics of saved predictions, in one call. Needs neither mmdet nor torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from eca_mmdet.datasets.detections import TASKS, Detections, read_results
from eca_mmdet.datasets.ground_truth import GroundTruth, read_ground_truth
from eca_mmdet.evaluation import coco_eval
from eca_mmdet.evaluation.bootstrap import Difference, difference
from eca_mmdet.evaluation.coco_eval import MAX_DETS, make_record
from eca_mmdet.evaluation.error_analysis import SCORE_THRESHOLD, analyze
from eca_mmdet.evaluation.tables import FORMATS, TITLES, Evaluated, result_tables
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import make_run_folder, require_free, write_json
from eca_mmdet.utils.text import printable

PathLike: TypeAlias = str | Path


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics of one or more result files.

    Attributes:
        record: content of ``metrics.json``; AP and AR are 0-1.
        notes: remarks on the files, one line each.
        folder: run folder with ``metrics.json``; None if nothing was written.
        drawings: folders with the pictures of the error analysis.
        truth: objects of the annotation file.
        files: detections and metrics of each result file.
    """

    record: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...]
    folder: Path | None
    drawings: tuple[Path, ...]
    truth: GroundTruth = field(repr=False)
    files: tuple[Evaluated, ...] = field(repr=False)

    @property
    def differences(self) -> tuple[dict[str, Difference], ...]:
        """Each further file minus the first, by task."""
        return tuple(file.minus_first for file in self.files[1:])

    def table(self, format: str = 'table', classwise: bool = False) -> str:
        """Return the tables of ``eca-mmdet eval``: 'table', 'md', 'csv' or 'latex'."""
        if format not in FORMATS:
            raise UserError(
                f'format must be one of {", ".join(FORMATS)}; got {format!r}.',
                code='option-invalid',
            )
        return result_tables(self.truth, self.files, classwise, format)


def evaluate(
    annotations: PathLike,
    results: PathLike | Sequence[PathLike],
    types: Sequence[str] | str | None = None,
    classes: Sequence[str] | str | None = None,
    max_dets: Sequence[int] = MAX_DETS,
    backend: str = 'hotcoco',
    bootstrap: int = 300,
    seed: int = 0,
    analysis: bool = False,
    score_thr: float = SCORE_THRESHOLD,
    out: PathLike | bool | None = None,
) -> EvaluationReport:
    """Evaluate COCO result files of any program.

    Args:
        annotations: COCO annotation file.
        results: COCO result files; each further one is compared to the first.
        types: 'bbox', 'segm' or both; None for those in the results.
        classes: names of the classes to evaluate, or one name; None for all.
        max_dets: limits of detections an image and class, ascending.
        backend: 'hotcoco' or 'pycocotools'. Both give the same bits.
        bootstrap: samples for the interval of a difference; 0 for none.
        seed: random seed of the bootstrap.
        analysis: split the errors by kind, into the record and as pictures.
        score_thr: lowest score in the confusion matrix and the worst images, 0-1.
        out: folder to create, with ``metrics.json`` and the pictures; True for
            ``runs/eval-DATE-TIME``, None to write nothing.

    Example:
        >>> import eca_mmdet
        >>> report = eca_mmdet.evaluate('val.json', 'detections.json')
        >>> report.record['results']['bbox']['metrics']['AP50']
        1.0
        >>> print(report.table('csv'))  # doctest: +ELLIPSIS
        results,type,row,class,class_id,objects,AP,AP50,AP75,...
        detections,bbox,value,,,12,100.0,100.0,100.0,...
    """
    paths = [results] if isinstance(results, (str, Path)) else list(results)
    types = [types] if isinstance(types, str) else types
    classes = [classes] if isinstance(classes, str) else classes
    unknown = [task for task in types or () if task not in TASKS]
    if unknown or bootstrap < 0:
        raise UserError(
            f'types must be of {", ".join(TASKS)}, and bootstrap 0 or more; got '
            f'{types!r} and {bootstrap!r}.',
            code='option-invalid',
        )
    try:
        limits = coco_eval.check_max_dets(max_dets)
    except ValueError as error:
        raise UserError(str(error), code='option-invalid') from error
    if not paths or backend not in coco_eval.BACKENDS:
        raise UserError(
            f'expected a result file and a backend of {", ".join(coco_eval.BACKENDS)}; '
            f'got {paths!r} and {backend!r}.',
            code='option-invalid',
        )
    if out and out is not True:
        require_free(out)
    whole = read_ground_truth(annotations)
    truth = _only(whole, classes) if classes else whole
    notes, files = list(truth.notes), []
    for path, label in zip(paths, _labels(paths), strict=True):
        read = read_results(path, whole, types)
        notes += read.notes
        found = {task: _move(each, whole, truth) for task, each in read.found.items()}
        numbers = {
            task: coco_eval.evaluate(truth, each, task, limits, backend)
            for task, each in found.items()
        }
        files.append(Evaluated(str(path), label, read.sha256, found, numbers))
    if not any('segm' in file.found for file in files):
        truth = truth.without_masks()
    for file in files[1:]:
        for task in (task for task in file.results if task in files[0].results):
            first, second = ((f.results[task], f.found[task]) for f in (files[0], file))
            title = printable(f'bootstrap, {file.label}, {TITLES[task]} (classes)')
            file.minus_first[task] = difference(
                truth, first, second, bootstrap, seed, limits, title
            )
    record = make_record(
        list(files[0].results.values()),
        {'file': str(annotations), 'sha256': truth.sha256},
        backend,
        predictions=files[0].source,
        classes=None if classes is None else list(classes),
        notes=notes,
    )
    if files[1:]:
        record['bootstrap'] = {'samples': bootstrap, 'seed': seed}
        record['others'] = [
            {
                'predictions': file.source,
                'results': {
                    task: each.as_json() for task, each in file.results.items()
                },
                'minus_first': {
                    t: asdict(each) for t, each in file.minus_first.items()
                },
            }
            for file in files[1:]
        ]
    folder = make_run_folder(None if out is True else str(out), 'eval') if out else None
    drawings: list[Path] = []
    if analysis:
        if folder:
            names = [f'{n}-{Path(file.path).stem}' for n, file in enumerate(files, 1)]
            drawings = [folder / name for name in names] if files[1:] else [folder]
        for drawn in drawings:
            drawn.mkdir(exist_ok=True)
        record['analysis'] = [
            {'file': file.path}
            | {
                task: analyze(truth, found, task, score_thr, drawn, limits)
                for task, found in file.found.items()
            }
            for file, drawn in itertools.zip_longest(files, drawings)
        ]
    if folder:
        write_json(folder / 'metrics.json', record)
    return EvaluationReport(
        record, tuple(notes), folder, tuple(drawings), truth, tuple(files)
    )


def _only(truth: GroundTruth, classes: Sequence[str]) -> GroundTruth:
    unknown = [name for name in classes if name not in truth.category_names]
    if unknown:
        raise UserError(
            f'classes {", ".join(map(repr, unknown))} are not in {truth.source}, which '
            f'has {", ".join(map(repr, truth.category_names[:10]))}'
            f'{", ..." if len(truth.category_names) > 10 else ""}.',
            code='unknown-class',
        )
    return truth.only(classes)


def _move(found: Detections, whole: GroundTruth, part: GroundTruth) -> Detections:
    """Keep the detections of the classes of a part, in its positions."""
    if part is whole:
        return found
    at = {category: index for index, category in enumerate(part.category_ids)}
    moved = np.array([at.get(each, -1) for each in whole.category_ids], np.int64)
    category = moved[found.category]
    kept = np.flatnonzero(category >= 0)
    return replace(found.take(kept), category=category[kept])


def _labels(paths: Sequence[PathLike]) -> list[str]:
    """Return file names without the suffix, or paths where those are not enough."""
    names = [Path(path).name.removesuffix('.json') for path in paths]
    whole = [str(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    if len(set(whole)) == len(whole):
        return whole
    return [f'{number}: {path}' for number, path in enumerate(whole, 1)]
