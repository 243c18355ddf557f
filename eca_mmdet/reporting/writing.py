"""The page of some runs as a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eca_mmdet.reporting.page import GENERATOR, render_page
from eca_mmdet.reporting.run import Options, Run, read_run
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file

MOST_RUNS = 8
_HEAD_BYTES = 2000


@dataclass(frozen=True)
class Report(os.PathLike[str]):
    """A page that was written. Usable as a path."""

    path: Path
    missing: dict[str, list[str]]
    """What the page could not show, by the label of the run."""
    replaced: bool
    """Whether an older page was there."""

    def __fspath__(self) -> str:
        return str(self.path)


def report(
    run_folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    images: str | None = None,
    annotations: str | None = None,
    examples: int = 6,
    gate_images: int = 20,
    model: bool = True,
) -> Report:
    """Write one HTML page of a run, or of several beside each other.

    Args:
        run_folders: work_dirs of a training or test, folders of demo or eval, or logs.
        out: HTML file; None for ``report.html`` in the folder of a single run, or here.
        labels: names of the runs on the page.
        images: folder of the images; None for the one in the config.
        annotations: annotation file; None for the recorded one.
        examples: worst and best images of each run.
        gate_images: images to measure the gates on, where the folder has no gates.json.
        model: build the detector, for its costs and to measure gates.

    Raises:
        UserError: a folder has no run, the options are wrong, or the page cannot be
            written.

    Example:
        >>> import eca_mmdet
        >>> page = eca_mmdet.report('runs/demo', model=False)  # doctest: +SKIP
        >>> page.missing  # doctest: +SKIP
        {'demo': []}
    """
    if isinstance(run_folders, (str, os.PathLike)):
        run_folders = [run_folders]
    if not all(map(str, run_folders)):
        raise UserError(
            'a run has an empty name; the folder here is called "."',
            code='option-invalid',
        )
    paths = list(map(Path, run_folders))
    target = Path('report.html')
    if out is not None:
        target = Path(out)
    elif len(paths) == 1 and paths[0].is_dir():
        target = paths[0] / 'report.html'
    _require_replaceable(target)
    runs = [
        run
        for path, label in zip(paths, _labels(paths, labels), strict=True)
        for run in read_run(path, label)
    ]
    if len(runs) > MOST_RUNS:
        raise UserError(
            f'a page shows up to {MOST_RUNS} runs, since more colours could not be '
            f'told apart; got {len(runs)}, each result file of an evaluation counted.',
            code='option-invalid',
        )
    _number_equal_labels(runs)
    replaced = target.exists()
    page = render_page(runs, Options(examples, images, annotations, gate_images, model))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial:
            partial.write_text(page, encoding='utf-8', errors='replace')
    except OSError as error:
        raise UserError(
            f'{target} cannot be written: {error}', code='file-not-written'
        ) from error
    missing = {run.label: list(dict.fromkeys(run.missing)) for run in runs}
    return Report(target, missing, replaced)


def _require_replaceable(target: Path) -> None:
    """Refuse a file that exists and is no page of this command."""
    if not target.exists():
        return
    head = b''
    if target.is_file():
        with open(target, 'rb') as file:
            head = file.read(_HEAD_BYTES)
    if f'content="{GENERATOR}"'.encode() not in head:
        raise UserError(
            f'{target} exists and is no page of this command, which replaces only '
            'those. Name another file with --out.',
            code='output-exists',
        )


def _labels(paths: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    """Return a name for each run: those given, or as much of the path as it takes."""
    if labels:
        if len(labels) != len(paths) or len(set(labels)) != len(labels):
            raise UserError(
                f'--labels takes a name for each of the {len(paths)} runs, no two '
                f'alike; got {" ".join(map(repr, labels))}.',
                code='option-invalid',
            )
        return list(labels)
    parts = [path.resolve().parts[1:] or ('/',) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ['/'.join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError('a run is named twice; name each once.', code='option-invalid')


def _number_equal_labels(runs: Sequence[Run]) -> None:
    """Number the result files of several evaluations that share a name."""
    names = [run.label for run in runs]
    for index, run in enumerate(runs):
        if run.label in names[:index]:
            run.label = f'{run.label} ({names[: index + 1].count(run.label)})'
