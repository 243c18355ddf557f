"""What the training starts from: a detector, a backbone, or its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from eca_mmdet.autoconfig.anchors import Anchors, Proposal
from eca_mmdet.autoconfig.base import find_anchors
from eca_mmdet.autoconfig.text import Commented
from eca_mmdet.utils.errors import UserError

if TYPE_CHECKING:
    from eca_mmdet.autoconfig.base import Base
    from eca_mmdet.autoconfig.inputs import Options


@dataclass(frozen=True)
class Start:
    """A start.

    Attributes:
        is_detector: a whole detector, for ``load_from``.
        model: what it sets in the model.
        entries: what it sets beside the model.
        anchors: that a detector was trained with, if its file says so.
        file: of the detector.
    """

    is_detector: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)
    anchors: Anchors | None = None
    file: str = ''

    def anchors_of(self, own: Anchors) -> Proposal:
        """Return the anchors that the detector's weights know.

        Args:
            own: of the config to inherit.
        """
        theirs = self.anchors
        if theirs == own:
            return Proposal(
                own, own, f"the config's own, which {self.file} was trained with"
            )
        if theirs is None:
            why = f'{self.file} does not say which it was trained with'
            return Proposal(own, own, f"the config's own: {why}")
        same = (theirs.key, theirs.octaves, theirs.strides)
        if same != (own.key, own.octaves, own.strides) or len(theirs.ratios) != len(
            own.ratios
        ):
            why = f'{self.file} was trained with others ({theirs.text()})'
            return Proposal(own, own, f"the config's own: {why}, which do not fit it")
        why = f'those that {self.file} was trained with, {theirs.text()}'
        return Proposal(theirs, own, why)


def with_own_weights(options: Options, base: Base) -> Options:
    """Return the options with the detector that the config itself starts from."""
    own = base.cfg.get('load_from')
    if options.weights is None and own:
        return replace(options, weights=str(own))
    return options


def read_start(options: Options, base: Base) -> Start:
    """Look at the file of ``--weights`` and say what it is for.

    Raises:
        UserError: it cannot be read or is not known, or rows of classes are to be kept
            from what is no detector.
    """
    from eca_mmdet.checkpoints.download import fetch
    from eca_mmdet.checkpoints.inspection import inspect

    if options.weights is None:
        if options.keep_classes:
            raise UserError(
                '--keep-classes goes with --weights FILE, a detector.',
                code='option-conflict',
            )
        return Start()
    path = str(fetch(options.weights))
    found = inspect(path)
    if found.kind == 'detector':
        return _from_detector(options, base, path)
    if options.keep_classes:
        raise UserError(
            f'--keep-classes needs a detector; {options.weights} is: {found.what}.',
            code='option-conflict',
        )
    init = dict(_delete_=True, type='ECAPretrained', checkpoint=options.weights)
    # A detector that the config starts from would be loaded over it.
    entries = {'load_from': None} if base.cfg.get('load_from') else {}
    return Start(model=dict(backbone=dict(init_cfg=init)), entries=entries)


def _from_detector(options: Options, base: Base, path: str) -> Start:
    hook: dict[str, Any] = dict(type='FineTuneHook')
    why = 'The layers that count classes start new.'
    if options.keep_classes:
        hook['keep_classes'] = True
        why = 'Of the layers that count classes, rows of equal names are kept.'
    own = [dict(one) for one in base.cfg.get('custom_hooks') or []]
    others = [one for one in own if one.get('type') != 'FineTuneHook']
    entries = {
        'load_from': str(options.weights),
        'custom_hooks': Commented([*others, hook], why),
    }
    # The detector brings its backbone; mmdet's own train.py reads both otherwise.
    model = dict(backbone=dict(init_cfg=None)) if _has_init(base) else {}
    return Start(True, model, entries, _anchors_in(path), str(options.weights))


def _anchors_in(path: str) -> Anchors | None:
    """Return the anchors in the config that mmengine saves in a checkpoint."""
    from eca_mmdet.checkpoints.embedded_config import parse_config
    from eca_mmdet.checkpoints.io import read_checkpoint

    meta = read_checkpoint(path).extras.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str):
        return None
    try:
        model = parse_config(text, path).get('model')
        return find_anchors(model)[1] if isinstance(model, dict) else None
    except (UserError, TypeError, ValueError, ArithmeticError):
        return None  # from anywhere: its numbers may be none


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
    from eca_mmdet.checkpoints.download import fetch
    from eca_mmdet.checkpoints.transfer import describe_start

    return describe_start(
        str(fetch(cfg.load_from)), cfg.model, tuple(classes), keep_classes
    )
