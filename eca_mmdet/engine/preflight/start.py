"""Checks of the checkpoint that a training or a test starts from."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.checkpoints.detector import require_converted, require_fit, require_start
from eca_mmdet.checkpoints.download import fetch, is_fetched
from eca_mmdet.checkpoints.io import Checkpoint, read_checkpoint
from eca_mmdet.checkpoints.transfer import other_classes
from eca_mmdet.engine.hooks.fine_tuning import (
    FineTuneHook,
    find_layers,
    own_state,
    training_classes,
)
from eca_mmdet.utils.errors import UserError

logger = logging.getLogger(__name__)


def check_start(
    cfg: Any, runner: Any, exact: bool, file: Checkpoint | None = None
) -> None:
    """Compare the detector that the run starts from with the model.

    Args:
        cfg: with ``load_from``; nothing is done without.
        runner: built, so that one process downloads for all.
        exact: every tensor must fit (test, resume); otherwise the backbone's must, and
            the others that start new are logged.
        file: content of ``load_from``, if it was read.

    Raises:
        WeightsError: it does not fit.
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
    file = file or read_checkpoint(path)
    if exact:
        require_fit(file.state, runner.model, start)
        return
    require_converted(file)
    for line in check_classes(cfg, runner, file):
        logger.info(line)


def check_classes(cfg: Any, runner: Any, file: Checkpoint) -> list[str]:
    """Compare the class layers of the detector that a training starts from.

    Args:
        cfg: with ``load_from``.
        runner: built, its training not begun.
        file: what ``load_from`` names.

    Returns:
        Lines that name what starts new; none with a ``FineTuneHook``, which logs them
        itself.

    Raises:
        UserError: the file does not fit, or its class names do not.
    """
    start = str(cfg.load_from)
    hook = next((h for h in runner.hooks if isinstance(h, FineTuneHook)), None)
    if hook:
        layers = hook.plan(runner, file, own_state(runner)).layers
        # What is loaded in this check stays where init_weights changes nothing.
        others = {key: t for key, t in file.state.items() if key not in layers}
        require_start(others, runner.model, start)
        return []
    own = own_state(runner)
    new = require_start(file.state, runner.model, start)
    lines = other_classes(file, training_classes(runner))
    if lines and not _keeps_class_layers(runner, file, own):
        lines = []
    if new:
        more = ', ...' if len(new) > 6 else ''
        lines.append(f'{len(new)} tensors start new: {", ".join(new[:6])}{more}')
    return lines


def _keeps_class_layers(runner: Any, file: Checkpoint, own: dict[str, Tensor]) -> bool:
    """Tell whether a class layer of the file is kept; not so if the heads differ."""
    try:
        layers = find_layers(runner, own, training_classes(runner))
    except UserError:
        return False
    state = file.state
    return any(key in state and state[key].shape == own[key].shape for key in layers)
