"""``eca-mmdet report``: one page of one or more runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eca_mmdet.atomic import whole_file
from eca_mmdet.errors import UserError, printable
from eca_mmdet.report.page import GENERATOR, render_page
from eca_mmdet.report.run import Run, read_run

_HEAD_BYTES = 2000


def run(args: argparse.Namespace) -> int:
    """Gather the runs, write the page, and say what is missing on it."""
    paths = [Path(one) for one in args.runs]
    target = _target(args.out, paths)
    labels = _labels(paths, args.labels)
    runs = [
        one
        for path, label in zip(paths, labels, strict=True)
        for one in read_run(path, label)
    ]
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
    print(f'page: {target}')
    return 0


def write_report(
    runs: Sequence[Run],
    target: Path,
    examples: int = 6,
    images: str | None = None,
    annotations: str | None = None,
    gate_images: int = 20,
    model: bool = True,
) -> None:
    """Write the page of some runs.

    Args:
        runs: of :func:`~eca_mmdet.report.run.read_run`; what cannot be shown is added
            to their ``missing``.
        target: HTML file.
        examples: worst and best images of each run.
        images: folder of the images; None takes the config's.
        annotations: annotation file; None takes the recorded one.
        gate_images: to measure gates on.
        model: also what needs the detector to be built: costs and gates.

    Raises:
        UserError: the file cannot be written, or is not one of these pages.
    """
    from eca_mmdet.report.model_parts import costs
    from eca_mmdet.report.pictures import galleries

    require_replaceable(target)
    pictures = galleries(runs, examples, images, annotations)
    counted = costs(runs) if model else []
    page = render_page(runs, pictures, counted)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial:
            partial.write_text(page, encoding='utf-8')
    except OSError as error:
        raise UserError(f'{target} cannot be written: {error}') from error


def _target(out: str | None, paths: Sequence[Path]) -> Path:
    if out is not None:
        target = Path(out)
    elif len(paths) == 1 and paths[0].is_dir():
        target = paths[0] / 'report.html'
    else:
        target = Path('report.html')
    require_replaceable(target)
    return target


def require_replaceable(target: Path) -> None:
    """Refuse a file that is there and is no page of this command.

    Raises:
        UserError: it is a folder, or something else of the user's.
    """
    if not target.exists():
        return
    head = b''
    if target.is_file():
        with open(target, 'rb') as file:
            head = file.read(_HEAD_BYTES)
    if f'content="{GENERATOR}"'.encode() not in head:
        raise UserError(
            f'{target} exists and is no page of this command, which replaces only '
            'those. Name another file with --out.'
        )


def _labels(paths: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    """Return a name for each run: those given, or as much of the path as it takes."""
    if labels:
        if len(labels) != len(paths) or len(set(labels)) != len(labels):
            raise UserError(
                f'--labels must be {len(paths)} different names, one for each run; got '
                f'{" ".join(labels)}.'
            )
        return list(labels)
    parts = [path.resolve().parts[1:] or ('/',) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError('a run is named twice; name each once.')
