"""Cost of detectors: parameters, multiply-adds and activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from eca_mmdet.analysis.exact_cost import ExactCost, exact_cost
from eca_mmdet.analysis.paper_cost import paper_cost
from eca_mmdet.catalog.published import published_rows
from eca_mmdet.engine.config import build_model, load_config
from eca_mmdet.utils.errors import UserError

PAPER_SHAPE = (1280, 800)
"""Width and height that the published numbers are for."""


@dataclass(frozen=True)
class ExactRow:
    """Exact cost of one detector, given by name or path."""

    config: str
    cost: ExactCost


@dataclass(frozen=True)
class PaperRow:
    """Cost of one detector by the convention of the paper's tables.

    Attributes:
        config: its name or path.
        params_m: trained parameters in 10^6.
        gflops: operations in 10^9.
        published: ``params_m`` and ``gflops`` of the table; None where there are none.
    """

    config: str
    params_m: float
    gflops: float
    published: dict[str, float] | None


@overload
def complexity(
    configs: str | Sequence[str],
    shape: tuple[int, int] = PAPER_SHAPE,
    convention: Literal['exact'] = 'exact',
    options: Sequence[str] = (),
) -> list[ExactRow]: ...


@overload
def complexity(
    configs: str | Sequence[str],
    shape: tuple[int, int] = PAPER_SHAPE,
    *,
    convention: Literal['paper'],
    options: Sequence[str] = (),
) -> list[PaperRow]: ...


def complexity(
    configs: str | Sequence[str],
    shape: tuple[int, int] = PAPER_SHAPE,
    convention: str = 'exact',
    options: Sequence[str] = (),
) -> list[ExactRow] | list[PaperRow]:
    """Count what detectors cost, without weights and data.

    Args:
        configs: names or paths; 'tables' stands for all of the paper's tables.
        shape: width and height of the input, in pixels.
        convention: 'exact', or 'paper' to count as the published tables do.
        options: overrides of config entries, each KEY=VALUE.

    Raises:
        UserError: a config is not one of a detector, or cannot be counted.

    Example:
        >>> import eca_mmdet
        >>> name = 'faster-rcnn_eca-r50_fpn_4xb2-1x_coco'
        >>> (row,) = eca_mmdet.complexity(name, convention='paper')
        >>> f'{row.params_m:.2f} {row.gflops:.2f}'
        '41.53 207.18'
    """
    if min(shape) < 32:
        raise UserError(
            f'--shape must be at least 32 32; got {shape}.', code='option-invalid'
        )
    if convention not in ('exact', 'paper'):
        raise UserError(
            f"convention must be 'exact' or 'paper'; got {convention!r}.",
            code='option-invalid',
        )
    loaded = load_configs(configs, options)
    size = (shape[1], shape[0])
    if convention == 'exact':
        return [
            ExactRow(name, exact_cost(build_model(cfg, 'meta'), cfg, size))
            for name, cfg in loaded.items()
        ]
    known = {}
    if shape == PAPER_SHAPE and not options:
        known = {
            row.config: {'params_m': row.params_m.value, 'gflops': row.gflops.value}
            for row in published_rows()
        }
    rows = []
    for name, cfg in loaded.items():
        cost = paper_cost(build_model(cfg, 'meta'), size)
        rows.append(PaperRow(name, **cost, published=known.get(name)))
    return rows


def load_configs(
    names: str | Sequence[str], options: Sequence[str] = ()
) -> dict[str, Any]:
    """Return detector configs by the names given; arguments as :func:`complexity`."""
    every: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        tables = [row.config for row in published_rows()]
        every += tables if name == 'tables' else [name]
    configs = {}
    for name in dict.fromkeys(every):
        cfg = load_config(name, options)
        if not cfg.get('model'):
            raise UserError(
                f'{cfg.filename} is not a detector config: it has no model.',
                code='config-invalid',
            )
        configs[name] = cfg
    return configs
