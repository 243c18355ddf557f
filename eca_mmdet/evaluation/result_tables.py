"""The tables of ``eca-mmdet eval``: result files, their differences, their classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.evaluation.bootstrap import Difference
from eca_mmdet.evaluation.coco_eval import Metrics, TaskResult, columns
from eca_mmdet.evaluation.tables import TITLES, class_table, format_ap, heading, render
from eca_mmdet.utils.text import printable


@dataclass(frozen=True)
class Evaluated:
    """One result file: its label in tables, and its detections and numbers by task."""

    path: str
    label: str
    sha256: str
    found: dict[str, Detections]
    results: dict[str, TaskResult]

    @property
    def source(self) -> dict[str, str]:
        """The file and the sha256 of what was read."""
        return {'file': self.path, 'sha256': self.sha256}


def result_tables(
    truth: GroundTruth,
    files: Sequence[Evaluated],
    differences: Sequence[dict[str, Difference]],
    classwise: bool,
    style: str,
) -> str:
    """Return all tables.

    Args:
        truth: what the files were held against.
        files: at least one.
        differences: of each further file to the first.
        classwise: also the classes.
        style: 'table' with headings; 'md' and 'latex' without; 'csv' is one table.
    """
    names = list(columns(next(iter(files[0].results.values())).max_dets))
    if style == 'csv':
        return _csv(files, differences, classwise, names)
    cells = [
        [label, *(format_ap(row[name], signed) for name in names)]
        for label, row, signed in _rows(files, differences)
    ]
    parts = [render(['', *names], cells, style)]
    if style == 'table':
        parts.insert(0, _introduction(truth, files))
    for one in files if classwise else ():
        for task, result in one.results.items():
            title = f'{printable(one.label)}, {TITLES[task]}, by class:'
            marks = {'table': title, 'md': f'**{title}**\n', 'latex': f'% {title}'}
            parts += ['', marks[style], class_table(result, style)]
    return '\n'.join(parts)


def _introduction(truth: GroundTruth, files: Sequence[Evaluated]) -> str:
    crowd = int(truth.crowd.sum())
    limits = next(iter(files[0].results.values())).max_dets
    return (
        f'{len(truth.image_ids)} images, {len(truth.image) - crowd} objects and '
        f'{crowd} crowd regions of {len(truth.category_ids)} classes\n'
        f'{heading(limits)}:'
    )


def _rows(
    files: Sequence[Evaluated], differences: Sequence[dict[str, Difference]]
) -> Iterator[tuple[str, Metrics, bool]]:
    """Yield (label, numbers, signed): a file, then its difference to the first."""
    for index, one in enumerate(files):
        for task, result in one.results.items():
            yield f'{one.label}, {TITLES[task]}', result.metrics, False
            minus = differences[index - 1].get(task) if index else None
            if minus is not None:
                yield f'minus {files[0].label}', minus.metrics, True
            if minus is not None and minus.low:
                yield '95 % from', minus.low, True
                yield 'to', minus.high, True


def _csv(
    files: Sequence[Evaluated],
    differences: Sequence[dict[str, Difference]],
    classwise: bool,
    names: list[str],
) -> str:
    """Return one table that a program reads: files, differences and classes."""
    header = ['results', 'type', 'row', 'class', 'class_id', 'objects', *names]
    cells = []
    for index, one in enumerate(files):
        for task, result in one.results.items():
            objects = result.counts['objects']
            parts: list[tuple[Any, ...]] = [('value', '', '', objects, result.metrics)]
            minus = differences[index - 1].get(task) if index else None
            if minus is not None:
                parts.append(('minus first', '', '', '', minus.metrics))
            if minus is not None and minus.low:
                parts.append(('minus first, low', '', '', '', minus.low))
                parts.append(('minus first, high', '', '', '', minus.high))
            parts += [
                ('value', each.name, each.id, each.objects, each.metrics)
                for each in (result.classes if classwise else ())
            ]
            cells += [
                [one.label, task, *map(str, head), *(format_ap(row[n]) for n in names)]
                for *head, row in parts
            ]
    return render(header, cells, 'csv')
