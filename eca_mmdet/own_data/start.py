"""What the training starts from: a detector, a backbone, or its own weights."""

from __future__ import annotations

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
        why_hooks: for the comment.
        lines: for the user.
    """

    is_detector: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    hooks: list[dict[str, Any]] = field(default_factory=list)
    why_hooks: str = ''
    lines: tuple[str, ...] = ()


def read_start(options: Options, base: Base, classes: list[str]) -> Start:
    """Look at the file of ``--weights`` and say what it is for.

    Raises:
        UserError: it cannot be read, is not known, or does not fit the detector.
    """
    from eca_mmdet.weights.inspection import inspect

    if options.weights is None:
        if options.keep_classes:
            raise UserError('--keep-classes goes with --weights FILE, a detector.')
        return Start()
    found = inspect(options.weights)
    if found.kind == 'detector':
        hook = dict(type='FineTuneHook', keep_classes=options.keep_classes)
        own = [dict(one) for one in base.cfg.get('custom_hooks') or []]
        return Start(True, {}, [*own, hook], '', (f'{options.weights}: {found.what}',))
    if options.keep_classes:
        raise UserError(
            f'--keep-classes needs a detector; {options.weights} is: {found.what}.'
        )
    init = dict(_delete_=True, type='ECAPretrained', checkpoint=str(options.weights))
    model = dict(backbone=dict(init_cfg=init))
    return Start(False, model, lines=(f'{options.weights}: {found.what}',))
