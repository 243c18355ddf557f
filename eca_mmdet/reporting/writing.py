"""Write the page of some runs to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eca_mmdet.reporting.gate_charts import gate_sections
from eca_mmdet.reporting.model_parts import costs
from eca_mmdet.reporting.page import GENERATOR, render_page
from eca_mmdet.reporting.pictures import galleries
from eca_mmdet.reporting.run import Run
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file

_HEAD_BYTES = 2000


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
        runs: from ``run.read_run``; what cannot be shown is added
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
    require_replaceable(target)
    pictures = galleries(runs, examples, images, annotations)
    counted = costs(runs) if model else []
    gates = gate_sections(runs, gate_images if model else 0, images, annotations)
    page = render_page(runs, pictures, counted, gates)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial:
            partial.write_text(page, encoding='utf-8', errors='replace')
    except OSError as error:
        raise UserError(f'{target} cannot be written: {error}') from error


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
