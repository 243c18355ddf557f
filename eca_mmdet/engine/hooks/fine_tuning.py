"""Start from a detector of other classes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop
from torch import Tensor

from eca_mmdet.checkpoints.class_layers import Layers, find_class_layers
from eca_mmdet.checkpoints.detector import require_start
from eca_mmdet.checkpoints.io import Checkpoint, strip_prefix, unwrap
from eca_mmdet.checkpoints.transfer import (
    TransferPlan,
    other_classes,
    plan_transfer,
    summary_lines,
)
from eca_mmdet.utils.errors import UserError


@HOOKS.register_module()
class FineTuneHook(Hook):  # type: ignore[misc]
    """Start the class layers new where training starts from a whole detector.

    mmengine loads what fits: class layers of equally many but other classes stay as
    they are. Here those of ``load_from`` start as the model initialises them. A resumed
    training and a test are left alone.

    Args:
        keep_classes: rows of classes whose names are equal, and those of no class
            (background), come from the file.
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
                f'keep_classes of FineTuneHook is True or False; got {keep_classes!r}.'
            )
        if source_classes is not None and not keep_classes:
            raise UserError(
                'source_classes of FineTuneHook are for keep_classes=True; without it '
                'no names are needed.'
            )
        self.keep_classes = keep_classes
        self.source_classes = source_classes
        self._done = False

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Exchange the class layers in what was read, before the model takes it."""
        starts = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if not starts or self._done:
            return
        self._done = True
        path = str(runner._load_from)
        wrapper, state = unwrap(path, checkpoint)
        extras = {k: v for k, v in checkpoint.items() if k != wrapper and wrapper}
        file = Checkpoint(path, strip_prefix(state)[1], 'PyTorch', extras=extras)
        own = own_state(runner)
        start = self.plan(runner, file, own)
        changed = OrderedDict({**file.state, **start.new})
        # Layers read there how old the names are.
        before = checkpoint[wrapper] if wrapper else checkpoint
        changed._metadata = getattr(before, '_metadata', OrderedDict())  # type: ignore[attr-defined]
        checkpoint['state_dict'] = changed
        for line in summary_lines(start, file, own):
            runner.logger.info(line)

    def plan(
        self, runner: Any, file: Checkpoint, own: dict[str, Tensor]
    ) -> TransferPlan:
        """Work out the class layers, or refuse; nothing is changed.

        Args:
            runner: with its model built.
            file: to start from.
            own: tensors of the model.

        Raises:
            UserError: see :func:`eca_mmdet.checkpoints.transfer.plan_transfer`.
        """
        wanted = _classes(runner)
        layers = find_layers(runner, own, wanted)
        if not self.keep_classes:
            return plan_transfer(file, own, layers)
        if wanted is None:
            raise UserError(
                'keep_classes of FineTuneHook needs the class names of the training '
                'data: set train_dataloader.dataset.metainfo.classes.'
            )
        return plan_transfer(file, own, layers, wanted, self.source_classes)


def find_layers(
    runner: Any, own: dict[str, Tensor], wanted: Sequence[str] | None
) -> Layers:
    """Return the class layers of a runner's model; see ``find_class_layers``."""
    count = len(wanted) if wanted else None
    return find_class_layers(runner.cfg.get('model'), own, count)


def own_state(runner: Any) -> dict[str, Tensor]:
    """Return the tensors of the runner's model under its own names."""
    model = runner.model
    return dict((model.module if is_model_wrapper(model) else model).state_dict())


def _classes(runner: Any) -> Sequence[str] | None:
    """Return the class names of the training data, from the data set once it is built.

    A config may leave them to the data set's own list.
    """
    if isinstance(runner._train_loop, BaseLoop):
        dataset = runner.train_dataloader.dataset
        found = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        return tuple(found) if isinstance(found, (list, tuple)) else None
    from eca_mmdet.engine.preflight.data import training_classes

    return training_classes(runner.cfg)


def check_classes(cfg: Any, runner: Any, file: Checkpoint) -> list[str]:
    """Hold the detector that a training starts from against the model.

    Args:
        cfg: with ``load_from``.
        runner: built, its training not begun.
        file: what ``load_from`` names.

    Returns:
        Lines that say what starts new. With a ``FineTuneHook`` there are none, since
        it says so itself.

    Raises:
        UserError: the file does not fit, or its class names do not.
    """
    start = str(cfg.load_from)
    hook = next((one for one in runner.hooks if isinstance(one, FineTuneHook)), None)
    if hook:
        layers = hook.plan(runner, file, own_state(runner)).layers
        # What is loaded in this check stays where init_weights changes nothing.
        others = {key: t for key, t in file.state.items() if key not in layers}
        require_start(others, runner.model, start)
        return []
    own = own_state(runner)
    new = require_start(file.state, runner.model, start)
    lines = other_classes(file, _classes(runner))
    if lines and not _keeps_class_layers(runner, file, own):
        lines = []
    if new:
        more = ', ...' if len(new) > 6 else ''
        lines.append(f'{len(new)} tensors start new: {", ".join(new[:6])}{more}')
    return lines


def _keeps_class_layers(runner: Any, file: Checkpoint, own: dict[str, Tensor]) -> bool:
    """Tell whether a class layer is the file's; not so if the heads are others."""
    try:
        layers = find_layers(runner, own, _classes(runner))
    except UserError:
        return False
    state = file.state
    return any(key in state and state[key].shape == own[key].shape for key in layers)
