"""Transfer of a detector checkpoint to other classes: planned and described.

Nothing here trains; :class:`eca_mmdet.engine.hooks.fine_tuning.FineTuneHook` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eca_mmdet.checkpoints.class_layers import (
    Layers,
    build_empty,
    find_class_layers,
    move_rows,
)
from eca_mmdet.checkpoints.class_names import Match, listed, match, require_names
from eca_mmdet.checkpoints.detector import read_heads, require_converted, require_start
from eca_mmdet.checkpoints.io import Checkpoint, read_checkpoint
from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.text import clipped

COCO_CLASSES = 80


@dataclass
class TransferPlan:
    """The class layers of a model that starts from a file.

    Attributes:
        classes: of the file; None if its class layers do not tell.
        layers: the class layers of the model.
        match: which classes keep their rows; None if none was asked to.
        new: class tensors that take over rows, or start new though the file has them.
        moved: of those, the ones that take over rows.
        unkept: layers whose rows cannot be kept, with the reason.
        notes: what else is to be said.
    """

    classes: int | None
    layers: Layers
    match: Match | None = None
    new: dict[str, Tensor] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_transfer(
    file: Checkpoint,
    own: Mapping[str, Tensor],
    layers: Layers,
    wanted: Sequence[str] | None = None,
    source_classes: Sequence[str] | None = None,
) -> TransferPlan:
    """Work out the class layers of a model that starts from a file.

    Args:
        file: of a detector.
        own: state dict of the model as it starts new; not changed.
        layers: its class layers.
        wanted: the model's class names, to keep rows of equal names; None starts all
            class layers new.
        source_classes: the file's class names, where it has none or wrong ones.

    Raises:
        UserError: rows are to be kept, and the file's class names are not known or do
            not fit its layers, or ``wanted`` does not fit the model's.
    """
    require_converted(file)
    _require_own_names(file, layers)
    plan = TransferPlan(_count(file.state, layers), layers)
    if wanted is not None:
        _require_wanted(wanted, own, layers)
    if wanted is not None and any(name in file.state for name in layers):
        plan.match = match(wanted, _names(file, plan, source_classes))
    for name in layers:
        if name in file.state:
            plan.new[name] = own[name].detach().clone()
            if plan.match and plan.match.kept:
                _move(name, file.state[name], plan, plan.match.kept)
    return plan


def _move(
    name: str, tensor: Tensor, plan: TransferPlan, kept: Mapping[int, int]
) -> None:
    """Take over a layer's rows, or note why not."""
    own, layout, reason = plan.new[name], plan.layers[name], ''
    if layout is None:
        reason = 'a layer whose rows are not known here'
    elif plan.classes is None or layout.classes(_rows(tensor)) != plan.classes:
        reason = f"the file's has {_rows(tensor)} rows"
    elif tensor.shape[1:] != own.shape[1:]:
        reason = f'the file has {tuple(tensor.shape)}'
    else:
        plan.new[name] = move_rows(own, tensor, layout, plan.classes, kept)
        plan.moved.append(name)
    if reason:
        plan.unkept.append(f'{name} ({reason})')


def _require_own_names(file: Checkpoint, layers: Layers) -> None:
    """Refuse a model that renames what it loads, as mmdet's teachers and students."""
    if any(name in file.state for name in layers):
        return
    part = next((n for n in layers if n.partition('.')[2] in file.state), None)
    if part:
        raise UserError(
            f'this model has a detector inside ({part}), and {file.path} is of that '
            'alone: FineTuneHook does not look inside. Leave it out of custom_hooks.',
            code='unsupported-model',
        )


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 0


def _count(state: Mapping[str, Tensor], layers: Layers) -> int | None:
    """Return the number of classes of a file.

    A layer that serves all classes at once looks like one of a single class, so that
    the largest number counts.
    """
    counts = [
        layout.classes(_rows(state[name]))
        for name, layout in layers.items()
        if layout and name in state
    ]
    return max((count for count in counts if count), default=None)


def _require_wanted(
    wanted: Sequence[str], own: Mapping[str, Tensor], layers: Layers
) -> None:
    count = _count(own, layers)
    if count is not None and count != len(wanted):
        raise UserError(
            f'the training data have {len(wanted)} classes ({listed(wanted)}), the '
            f'heads of the model {count}. Set num_classes={len(wanted)} in each head.',
            code='class-mismatch',
        )


def _names(
    file: Checkpoint, plan: TransferPlan, source_classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the file's class names, one for each of its classes."""
    count, names, where = plan.classes, None, 'source_classes of the FineTuneHook'
    if source_classes is not None:
        names = require_names(source_classes, where)
    else:
        names, where = file.classes, 'the file'
        if names is None and count == COCO_CLASSES:
            from mmdet.datasets import CocoDataset

            names = tuple(CocoDataset.METAINFO['classes'])
            plan.notes.append("the file has no class names: COCO's 80 are taken")
    if names is None:
        raise UserError(
            f'{file.path} has no class names, so that no rows can be kept by name. Set '
            f'the names of its classes ({count or "how many is not known"}), in its '
            'order, as source_classes of the FineTuneHook, or leave out keep_classes.',
            code='class-mismatch',
        )
    if count is not None and len(names) != count:
        raise WeightsError(
            f'{where} has {len(names)} class names ({listed(names)}), but the class '
            f'layers of {file.path} have rows of {count} classes. It is of other heads '
            'than the config, or the names are of another file: set source_classes of '
            'the FineTuneHook, or leave out keep_classes.',
            code='class-mismatch',
        )
    return names


def summary_lines(
    plan: TransferPlan, file: Checkpoint, model: Mapping[str, Tensor]
) -> list[str]:
    """Return lines that say what is the file's and what starts new.

    Args:
        plan: as planned.
        file: it starts from.
        model: tensors of the model; of their shapes alone.
    """
    count = f' ({_many(plan.classes, "class", "classes")})' if plan.classes else ''
    others = [
        name
        for name in model
        if name not in plan.layers and not name.endswith('num_batches_tracked')
    ]
    taken = [name for name in others if _fits(name, file.state, model)]
    new = [name for name in others if name not in taken]
    line = f'fine-tuning from {clipped(file.path, 200)}{count}: '
    line += _about_classes(plan)
    line += f"; {len(taken)} other tensors are the file's"
    if new:
        line += f', {len(new)} start new: {listed(new)}'
    lines = [line, *plan.notes]
    absent = [name for name in plan.layers if name not in file.state]
    if absent:
        lines.append(f'not in the file, so new: {listed(absent)}')
    if plan.unkept:
        shown = '; '.join(plan.unkept[:6]) + '; ...' * (len(plan.unkept) > 6)
        lines.append(f'rows not kept, all new: {shown}')
    if plan.match and plan.match.near:
        near = [f'{name} (file: {theirs})' for name, theirs in plan.match.near]
        lines.append(f'similar names are not taken for equal: {listed(near)}')
    return lines


def _fits(name: str, state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> bool:
    return name in state and state[name].shape == model[name].shape


def _about_classes(plan: TransferPlan) -> str:
    moved = _parts(plan.moved)
    new = [part for part in _parts(plan.layers) if part not in moved]
    lines = []
    if moved and plan.match:
        found = plan.match
        keep = (
            f'{_many(len(moved), "class layer keeps", "class layers keep")} the rows '
        )
        if found.new:
            keep += f'of {len(found.same)} of {len(found.same + found.new)} classes: '
            keep += f'{listed(found.same)}; new: {listed(found.new)}'
        else:
            keep += f'of all {_many(len(found.same), "class", "classes")}'
        lines.append(keep)
    if new:
        start_new = 'class layer starts new', 'class layers start new'
        lines.append(f'{_many(len(new), *start_new)}: {listed(new)}')
        if plan.match and not plan.match.kept:
            lines.append(f'no class has a name of the file: {listed(plan.match.new)}')
    return '; '.join(lines)


def _parts(names: Iterable[str]) -> list[str]:
    """Return the layers that tensors are of, each once."""
    return sorted({name.rpartition('.')[0] or name for name in names})


def _many(count: int, one: str, more: str) -> str:
    return f'{count} {one if count == 1 else more}'


def describe_start(
    path: str,
    model_cfg: Any,
    classes: Sequence[str],
    keep_classes: bool = False,
    source_classes: Sequence[str] | None = None,
) -> list[str]:
    """Say what a detector's file would give to a model, without training it.

    Args:
        path: local file of a detector.
        model_cfg: as ``cfg.model``; not changed.
        classes: names of the model's classes, in its order.
        keep_classes: rows of equal names are to be kept.
        source_classes: as of the FineTuneHook.

    Returns:
        Lines to print: those that training prints, before them one on the file.

    Raises:
        UserError: the file cannot be read; is no detector, one of MMDetection v1 as it
            came, or of another backbone; or its class names cannot be used.
    """
    file = read_checkpoint(path)
    require_converted(file)
    model = build_empty(model_cfg)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # nothing is copied into an empty model
        require_start(file.state, model, path)
    own = model.state_dict()
    layers = find_class_layers(model_cfg, own, len(classes))
    wanted = classes if keep_classes else None
    plan = plan_transfer(file, own, layers, wanted, source_classes)
    return [_about_file(file, plan, source_classes), *summary_lines(plan, file, own)]


def _about_file(
    file: Checkpoint, plan: TransferPlan, source_classes: Sequence[str] | None
) -> str:
    heads = read_heads(file.state, file.extras)
    kind = f'{heads.detector} of MMDetection {heads.version}' if heads else 'detector'
    try:
        names = source_classes or file.classes
    except WeightsError:
        names = None
    known = f': {listed(names)}' if names else ', which it does not name'
    count = plan.classes or (len(names) if names else None)
    if count is None:
        return f'{file.path}: {kind}; its number of classes is not known'
    return f'{file.path}: {kind}, {_many(count, "class", "classes")}{known}'


def other_classes(file: Checkpoint, wanted: Iterable[str] | None) -> list[str]:
    """Return a warning if equally many but other classes would keep their layers.

    Args:
        file: to start from, without a FineTuneHook.
        wanted: class names of the training data, if they are known.
    """
    try:
        names = file.classes
    except WeightsError:
        return []
    mine = tuple(wanted or ())
    if not names or not mine or len(names) != len(mine) or names == mine:
        return []
    at = next(i for i, name in enumerate(mine) if name != names[i])
    return [
        f'warning: {file.path} is of {len(names)} other classes, or of another order '
        f'(class {at}: {clipped(names[at])}, here {clipped(mine[at])}), and its class '
        'layers are kept as they are. To start them new: custom_hooks=[dict('
        "type='FineTuneHook')]; keep_classes=True in it keeps the rows of equal names"
    ]
