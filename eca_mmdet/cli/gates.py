"""``eca-mmdet gates``: what a trained detector's gates do, by channel and class."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress

from eca_mmdet.analysis.gates.images import ImageSet, choose_images
from eca_mmdet.evaluation.metrics_json import versions
from eca_mmdet.evaluation.tables import render
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import describe_file, make_run_folder, require_free, write_json
from eca_mmdet.utils.text import printable

GATE_HEADER = (
    *('stage', 'block', 'layer', 'channels', 'kernel', 'mean', 'over images'),
    *('between classes', 'dead', 'saturated', 'constant'),
)


def run(args: argparse.Namespace) -> int:
    """Choose images, measure, print and draw."""
    if args.out:
        require_free(args.out)
    configs = _configs(args)
    if not args.dead < args.saturated:
        raise UserError(
            f'--dead must be less than --saturated; got {args.dead} and '
            f'{args.saturated}.'
        )
    images = choose_images(args.images, args.images_dir, args.classes, args.limit)
    out = make_run_folder(args.out, 'gates')  # before minutes of work
    try:
        record = _measure(args, configs, images)
    except BaseException:
        out.rmdir()
        raise
    from eca_mmdet.analysis.gates.plots import draw_gates

    write_json(out / 'gates.json', record)
    print(json.dumps(record, indent=1) if args.json else gate_tables(record))
    pictures = draw_gates(record, out)
    for one in record['checkpoints']:
        for left in one['left_out']:
            _tell(f'left out: {left["name"]} ({left["layer"]}): {left["reason"]}')
    for path in (out / 'gates.json', *pictures):
        _tell(str(path))
    return 0


def _tell(line: str) -> None:
    """Say something that is not the result; stdout has the result alone."""
    print(printable(line), file=sys.stderr)


def _configs(args: argparse.Namespace) -> list[str | None]:
    """Return the config of each checkpoint; None for its own."""
    given = args.config or [None]
    count = len(args.checkpoints)
    if len(given) not in (1, count):
        raise UserError(
            f'--config: expected one config for all, or one for each of the {count} '
            f'checkpoints; got {len(given)}.'
        )
    return given * count if len(given) == 1 else list(given)


def _measure(
    args: argparse.Namespace, configs: Sequence[str | None], images: ImageSet
) -> dict[str, Any]:
    from eca_mmdet.analysis.gates.record import Thresholds, gates_record, measure_gates
    from eca_mmdet.inference.detector import load_detector

    thresholds = Thresholds(args.dead, args.saturated, args.constant)
    console = Console(stderr=True)
    measured = []
    for checkpoint, config in zip(args.checkpoints, configs, strict=True):
        detector = load_detector(checkpoint, config, args.device)
        with Progress(
            console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            bar = progress.add_task('images', total=len(images.images))
            found = measure_gates(
                detector,
                images.images,
                images.classes_of,
                thresholds,
                lambda done, move=progress.update, bar=bar: move(bar, completed=done),  # type: ignore[misc]
            )
        measured.append({**describe_file(detector.path), **found})
    record = gates_record(
        measured, images.images, images.source, images.classes_of, thresholds
    )
    return {**record, 'versions': versions()}


def gate_tables(record: Mapping[str, Any], style: str = 'table') -> str:
    """Return a table of each checkpoint's gates, and what its columns mean.

    Args:
        record: content of ``gates.json``.
        style: of :func:`eca_mmdet.evaluation.tables.render`.
    """
    parts = []
    for one in record['checkpoints']:
        cells = [gate_cells(gate) for gate in one['gates']]
        title = printable(f'{one.get("file", "")} ({one["detector"]})'.strip())
        parts.append(f'{title}\n\n{render(["gate", *GATE_HEADER], cells, style)}')
    return '\n\n'.join([*parts, _legend(record)])


def gate_cells(gate: Mapping[str, Any]) -> list[str]:
    """Return a gate's row of the table: its name and ``GATE_HEADER``."""
    mean, over_images = (
        sum(gate[key]) / gate['channels'] for key in ('mean', 'deviation')
    )
    kernel = gate['kernel']
    return [
        gate['name'],
        *map(_or_dash, (gate['stage'], gate['block'])),
        gate['layer'],
        str(gate['channels']),
        _or_dash(kernel and len(kernel)),
        f'{mean:.3f}',
        f'{over_images:.4f}',
        '-' if gate['class_spread'] is None else f'{gate["class_spread"]:.4f}',
        *map(_or_dash, (gate['dead'], gate['saturated'], gate['constant'])),
    ]


def _or_dash(value: int | None) -> str:
    return '-' if value is None else str(value)


def _legend(record: Mapping[str, Any]) -> str:
    at = record['thresholds']
    classes = ', '.join(
        f'{printable(one["name"])} ({one["images"]})' for one in record['classes']
    )
    lines = [
        f'{record["images"]} images of {printable(record["image_source"])}'
        + (f'; of each class: {classes}' if classes else '; no classes'),
        'mean: of the gate over images and channels. over images, between classes: '
        "standard deviation over the images, and over the classes' means; averaged "
        'over channels.',
        f"Channels, as shares of the gate's range: dead: below {at['dead']:g} on all "
        f'images; saturated: above {at["saturated"]:g}; constant: standard deviation '
        f'over images below {at["constant"]:g}.',
    ]
    return '\n'.join(lines)
