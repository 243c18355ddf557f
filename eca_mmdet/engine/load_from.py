"""Checks of the checkpoint in ``load_from``, and its transfer to other classes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop
from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.checkpoints.download import fetch, is_fetched
from eca_mmdet.checkpoints.io import Checkpoint, as_checkpoint, read_checkpoint
from eca_mmdet.checkpoints.transfer import (
    TransferPlan,
    find_class_layers,
    other_classes,
    plan_transfer,
    require_converted,
    require_fit,
    require_start,
    summary_lines,
)
from eca_mmdet.engine.config import class_names, initializes_backbone
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import first

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class FineTuneHook(Hook):  # type: ignore[misc]
    """Initialise the class layers anew where training starts from a whole detector.

    mmengine loads what fits: class layers for the same number of other classes would
    be kept. Here those of ``load_from`` start as the model initialises them. A resumed
    training and a test are not changed.

    Args:
        keep_classes: copy the rows of classes with equal names, and of background,
            from the file.
        source_classes: names of the file's classes in its order, where it has none.

    Raises:
        UserError: an argument is of another type; when training starts, what
            :func:`eca_mmdet.checkpoints.transfer.plan_transfer` refuses.
    """

    priority = 'VERY_HIGH'  # before EMAHook copies what was loaded

    def __init__(
        self, keep_classes: bool = False, source_classes: Sequence[str] | None = None
    ) -> None:
        if not isinstance(keep_classes, bool):
            raise UserError(
                f'keep_classes of FineTuneHook is True or False; got {keep_classes!r}.',
                code='option-invalid',
            )
        if source_classes is not None and not keep_classes:
            raise UserError(
                'source_classes of FineTuneHook are for keep_classes=True; without it '
                'no names are needed.',
                code='option-conflict',
            )
        self.keep_classes = keep_classes
        self.source_classes = source_classes
        self._done = False

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Replace the class layers in the checkpoint, before the model loads it."""
        trains = isinstance(compat.train_loop(runner), BaseLoop)
        if not trains or compat.is_resuming(runner) or self._done:
            return
        self._done = True
        path = str(compat.load_path(runner))
        own = own_state(runner)
        file = as_checkpoint(path, checkpoint).named_as(own)
        start = self.plan(runner, file, own)
        checkpoint['state_dict'] = file.content()['state_dict']
        checkpoint['state_dict'].update(start.new)
        for line in summary_lines(start, file, own):
            runner.logger.info(line)

    def plan(
        self, runner: Any, file: Checkpoint, own: dict[str, Tensor]
    ) -> TransferPlan:
        """Plan the class layers; nothing is changed."""
        wanted = training_classes(runner)
        layers = find_class_layers(runner.cfg.get('model'), own, len(wanted or ()))
        if not self.keep_classes:
            return plan_transfer(file, own, layers)
        if wanted is None:
            raise UserError(
                'keep_classes of FineTuneHook needs the class names of the training '
                'data: set train_dataloader.dataset.metainfo.classes.',
                code='unknown-class',
            )
        return plan_transfer(file, own, layers, wanted, self.source_classes)


def own_state(runner: Any) -> dict[str, Tensor]:
    """Return the tensors of the runner's model under its own names."""
    model = runner.model
    return dict((model.module if is_model_wrapper(model) else model).state_dict())


def training_classes(runner: Any) -> Sequence[str] | None:
    """Return the class names of the training data, from the dataset once it is built.

    A config may leave them to the annotation file.
    """
    if isinstance(compat.train_loop(runner), BaseLoop):
        dataset = runner.train_dataloader.dataset
        names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        return tuple(names) if isinstance(names, (list, tuple)) else None
    return class_names(runner.cfg)


def check_start(cfg: Any, runner: Any, exact: bool) -> None:
    """Compare the detector of ``load_from`` with the model, if there is one.

    With ``exact`` (test, resume) every tensor must fit; otherwise the backbone's must,
    and the others that start new are logged.
    """
    start = str(cfg.get('load_from') or '')
    if not start:
        return
    if not is_fetched(start):
        logger.info(f'{start}: mmengine loads it; whether it fits is not checked')
        return
    if isinstance(runner.model, dict):
        logger.info(
            f'{start}: whether it fits is not checked: {cfg.runner_type} builds later'
        )
        return
    path = str(fetch(start))
    compat.set_load_path(runner, path)  # mmengine would download a URL once more
    file = read_checkpoint(path).named_as(own_state(runner))
    if exact:
        require_fit(file.state, runner.model, start)
        return
    require_converted(file)
    for line in check_classes(cfg, runner, file):
        logger.info(line)


def check_classes(cfg: Any, runner: Any, file: Checkpoint) -> list[str]:
    """Return lines that name the layers that start new in a detector of other classes.

    None with a ``FineTuneHook``, which logs them itself.
    """
    start, own = str(cfg.load_from), own_state(runner)
    checked = initializes_backbone(cfg)
    hook = next((h for h in runner.hooks if isinstance(h, FineTuneHook)), None)
    if hook:
        layers = hook.plan(runner, file, own).layers
        # What is loaded in this check stays where init_weights changes nothing.
        others = {key: t for key, t in file.state.items() if key not in layers}
        require_start(others, runner.model, start, checked)
        return []
    new = require_start(file.state, runner.model, start, checked)
    wanted = training_classes(runner)
    if lines := other_classes(file, wanted):
        layers = {}  # not known, or of other names: then none is kept
        with contextlib.suppress(UserError):
            layers = find_class_layers(runner.cfg.get('model'), own, len(wanted or ()))
        shared = layers.keys() & file.state.keys()
        if not any(file.state[key].shape == own[key].shape for key in shared):
            lines = []
    if new:
        lines.append(f'{len(new)} tensors start new: {first(new, 6)}')
    return lines
