"""What the training starts from: a detector, a backbone, or its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eca_mmdet.errors import UserError

if TYPE_CHECKING:
    from eca_mmdet.own_data.base import Base
    from eca_mmdet.own_data.options import Options


@dataclass(frozen=True)
class Start:
    """A start.

    Attributes:
        is_detector: a whole detector, for ``load_from``.
        model: what it sets in the model.
        hooks: ``custom_hooks``, for a detector.
        why: what the last of them does.
    """

    is_detector: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    hooks: list[dict[str, Any]] = field(default_factory=list)
    why: str = ''


def read_start(options: Options, base: Base) -> Start:
    """Look at the file of ``--weights`` and say what it is for.

    Raises:
        UserError: it cannot be read or is not known, or rows of classes are to be kept
            from what is no detector.
    """
    from eca_mmdet.weights.fetch import fetch
    from eca_mmdet.weights.inspection import inspect

    if options.weights is None:
        if options.keep_classes:
            raise UserError('--keep-classes goes with --weights FILE, a detector.')
        return Start()
    found = inspect(str(fetch(options.weights)))
    if found.kind == 'detector':
        hook: dict[str, Any] = dict(type='FineTuneHook')
        why = 'The layers that count classes start new.'
        if options.keep_classes:
            hook['keep_classes'] = True
            why = 'Of the layers that count classes, rows of equal names are kept.'
        own = [dict(one) for one in base.cfg.get('custom_hooks') or []]
        others = [one for one in own if one.get('type') != 'FineTuneHook']
        # The detector brings its backbone; mmdet's own train.py reads both otherwise.
        model = dict(backbone=dict(init_cfg=None)) if _has_init(base) else {}
        return Start(True, model, [*others, hook], why)
    if options.keep_classes:
        raise UserError(
            f'--keep-classes needs a detector; {options.weights} is: {found.what}.'
        )
    init = dict(_delete_=True, type='ECAPretrained', checkpoint=options.weights)
    return Start(model=dict(backbone=dict(init_cfg=init)))


def _has_init(base: Base) -> bool:
    return bool((base.cfg.model.get('backbone') or {}).get('init_cfg'))


def describe(cfg: Any, classes: Sequence[str], keep_classes: bool) -> list[str]:
    """Return lines on what a detector gives to the model.

    Args:
        cfg: the new config, with ``load_from``.
        classes: of the data.
        keep_classes: rows of equal names are kept.

    Raises:
        UserError: the file does not fit.
    """
    from eca_mmdet.weights.fetch import fetch
    from eca_mmdet.weights.start_lines import describe_start

    return describe_start(
        str(fetch(cfg.load_from)), cfg.model, tuple(classes), keep_classes
    )
