"""Matplotlib figures, drawn without touching the user's backend."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file


def new_figure(*args: Any, sharey: bool = False, **kwargs: Any) -> Any:
    """Return a figure and its axes: rows and columns, then arguments of ``Figure``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(**kwargs)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*args, sharey=sharey)


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a PNG file whole or not at all."""
    try:
        with whole_file(path) as partial, warnings.catch_warnings():
            # Class names in scripts that the font lacks are drawn as empty boxes.
            warnings.filterwarnings('ignore', 'Glyph .* missing from')
            figure.savefig(partial, dpi=dpi, format='png')
    except OSError as error:
        raise UserError(
            f'{path} cannot be written: {error}', code='file-not-written'
        ) from error
