"""COCO metrics of saved predictions, in one call. Needs neither mmdet nor torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from eca_mmdet.datasets.detections import TASKS, Detections, Results, read_results
from eca_mmdet.datasets.ground_truth import GroundTruth, read_ground_truth
from eca_mmdet.evaluation import coco_eval
from eca_mmdet.evaluation.bootstrap import Difference, difference
from eca_mmdet.evaluation.coco_eval import MAX_DETS, make_record
from eca_mmdet.evaluation.error_analysis import SCORE_THRESHOLD, analyze
from eca_mmdet.evaluation.tables import (
    FORMATS,
    TITLES,
    Evaluated,
    flat_rows,
    result_tables,
)
from eca_mmdet.utils.errors import (
    UserError,
    require_choice,
    require_classes,
    require_fraction,
    require_package,
)
from eca_mmdet.utils.io import make_run_folder, require_free, write_json
from eca_mmdet.utils.text import printable

if TYPE_CHECKING:
    from eca_mmdet.inference.prediction import Prediction

PathLike: TypeAlias = str | Path
Predictions: TypeAlias = 'Mapping[Any, Prediction] | Sequence[Prediction]'
ResultsLike: TypeAlias = 'PathLike | Sequence[Mapping[str, Any]] | Predictions'


_MANY, _LOW = 100, 0.1  # of so many detections, some have a score below this


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

    def __str__(self) -> str:
        return self.table()

    def table(self, format: str = 'table', classwise: bool = False) -> str:
        """Return the tables of ``eca-mmdet eval``: 'table', 'md', 'csv' or 'latex'."""
        require_choice('format', format, FORMATS)
        return result_tables(self.truth, self.files, classwise, format)

    def to_dataframe(self, classwise: bool = False) -> Any:
        """Return the table as a ``pandas.DataFrame``: AP and AR 0-100, NaN for n/a."""
        pandas = require_package('pandas', 'to_dataframe()', 'pandas')
        frame = pandas.DataFrame(flat_rows(self.files, classwise))
        return frame.assign(**(100 * frame.loc[:, 'AP':].astype(float)))


def evaluate(
    annotations: PathLike | Mapping[str, Any],
    results: ResultsLike | Sequence[ResultsLike],
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
    """Evaluate detections of any program.

    Args:
        annotations: COCO annotation file, or its content.
        results: COCO result file or its entries, predictions of image files, or a dict
            from image id or file name to prediction; or a list of these, of which each
            further one is compared to the first.
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
    sources = _as_list(results)
    paths = [str(s) if isinstance(s, (str, Path)) else 'results' for s in sources]
    types = [types] if isinstance(types, str) else types
    classes = [classes] if isinstance(classes, str) else classes
    for task in types or ():
        require_choice('types', task, TASKS)
    require_choice('backend', backend, coco_eval.BACKENDS)
    require_fraction('score_thr', score_thr)
    try:
        limits = coco_eval.check_max_dets(max_dets)
        if bootstrap < 0:
            raise ValueError(f'bootstrap must be 0 or more; got {bootstrap!r}.')
    except ValueError as error:
        raise UserError(str(error), code='option-invalid') from error
    if out and out is not True:
        require_free(out)
    whole = read_ground_truth(annotations)
    require_classes(classes or (), whole.category_names, whole.source)
    truth = whole.only(classes) if classes else whole
    notes, files = list(truth.notes), []
    for source, path, label in zip(sources, paths, _labels(paths), strict=True):
        read = _read(source, whole, types)
        notes += [*read.notes, *_cut(label, read)]
        found = {task: _move(each, whole, truth) for task, each in read.found.items()}
        numbers = {
            task: coco_eval.evaluate(truth, each, task, limits, backend)
            for task, each in found.items()
        }
        files.append(Evaluated(path, label, read.sha256, found, numbers))
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
        {'file': truth.source, 'sha256': truth.sha256},
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


def _cut(label: str, results: Results) -> list[str]:
    """Return a note on detections that seem to be cut off at a score."""
    found = [each.scores for each in results.found.values() if len(each) >= _MANY]
    lowest = min((scores.min() for scores in found), default=0)
    if lowest < _LOW:
        return []
    return [
        f'{label}: no score is below {lowest:.2f}. AP counts every detection: a '
        'threshold that was applied before lowers it'
    ]


def _as_list(results: Any) -> list[Any]:
    """Return one or several results as a list."""
    if isinstance(results, (str, Path, Mapping)) or hasattr(results, 'to_coco'):
        return [results]
    items = list(results)
    single = all(
        hasattr(each, 'to_coco') or (isinstance(each, Mapping) and 'image_id' in each)
        for each in items
    )
    return [items] if single else items


def _read(source: Any, truth: GroundTruth, types: Sequence[str] | None) -> Results:
    """Read a result file, its entries, or predictions."""
    if isinstance(source, (str, Path)):
        return read_results(source, truth, types)
    found = [source] if hasattr(source, 'to_coco') else source
    pairs = [(getattr(each, 'path', None), each) for each in found]
    if isinstance(source, Mapping):
        pairs = list(source.items())
    if not all(hasattr(each, 'to_coco') for _, each in pairs):
        return read_results(source, truth, types)
    ids = dict(zip(truth.category_names, truth.category_ids, strict=True))
    names = [PurePath(name).as_posix() for name in truth.file_names]
    images = dict(zip((*names, *truth.image_ids), truth.image_ids * 2, strict=True))
    entries: dict[Any, list[Any]] = {}
    for key, prediction in pairs:
        parts = PurePath(key).parts if isinstance(key, (str, Path)) else ()
        ends = [PurePath(*parts[at:]).as_posix() for at in range(len(parts))]
        image = next((images[end] for end in (key, *ends) if end in images), None)
        if image is None or image in entries:
            fault = 'unknown' if image is None else 'predicted twice'
            raise UserError(
                f'results: the image {key!r} is {fault}. Give a dict from image id or '
                f'file name in {truth.source} to prediction, e.g. '
                f'{{{truth.image_ids[0]!r}: prediction}}.',
                code='not-results',
            )
        categories = [ids.get(name, name) for name in prediction.classes]
        entries[image] = prediction.to_coco(image, categories)
    if types is None and pairs and all(each.masks is not None for _, each in pairs):
        types = TASKS
    read = read_results([*itertools.chain(*entries.values())], truth, types)
    missing = len(truth.image_ids) - len(entries)
    note = (
        f'results: {missing} of {len(truth.image_ids)} images of {truth.source} were '
        'not predicted; their objects count as missed'
    )
    return replace(read, notes=(note, *read.notes)) if missing else read


def _move(found: Detections, whole: GroundTruth, part: GroundTruth) -> Detections:
    """Keep the detections of the classes of a part, in its positions."""
    if part is whole:
        return found
    at = {category: index for index, category in enumerate(part.category_ids)}
    moved = np.array([at.get(each, -1) for each in whole.category_ids], np.int64)
    category = moved[found.category]
    kept = np.flatnonzero(category >= 0)
    return replace(found.take(kept), category=category[kept])


def _labels(paths: Sequence[str]) -> list[str]:
    """Return file names without the suffix, or paths where those are not enough."""
    names = [Path(path).name.removesuffix('.json') for path in paths]
    if len(set(names)) == len(names):
        return names
    if len(set(paths)) == len(paths):
        return [*paths]
    return [f'{number}: {path}' for number, path in enumerate(paths, 1)]
