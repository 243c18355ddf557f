"""What a detector's file gives to a detector of other classes, and what is said of it.

Nothing here trains; :class:`eca_mmdet.engine.hooks.fine_tuning.FineTuneHook` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from eca_mmdet.checkpoints.detector import require_converted
from eca_mmdet.checkpoints.io import WeightFile
from eca_mmdet.checkpoints.transfer.class_layers import Layers
from eca_mmdet.checkpoints.transfer.class_names import (
    Match,
    listed,
    match,
    read_names,
    require_names,
)
from eca_mmdet.checkpoints.transfer.class_rows import move_rows
from eca_mmdet.utils.errors import UserError, WeightsError

COCO_CLASSES = 80


@dataclass
class Start:
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


def plan_start(
    file: WeightFile,
    own: Mapping[str, Tensor],
    layers: Layers,
    wanted: Sequence[str] | None = None,
    source_classes: Sequence[str] | None = None,
) -> Start:
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
    start = Start(_count(file.state, layers), layers)
    if wanted is not None:
        _require_wanted(wanted, own, layers)
    if wanted is not None and any(name in file.state for name in layers):
        start.match = match(wanted, _names(file, start, source_classes))
    for name in layers:
        if name in file.state:
            start.new[name] = own[name].detach().clone()
            if start.match and start.match.kept:
                _move(name, file.state[name], start, start.match.kept)
    return start


def _move(name: str, tensor: Tensor, start: Start, kept: Mapping[int, int]) -> None:
    """Take over a layer's rows, or note why not."""
    own, layout, reason = start.new[name], start.layers[name], ''
    if layout is None:
        reason = 'a layer whose rows are not known here'
    elif start.classes is None or layout.classes(_rows(tensor)) != start.classes:
        reason = f"the file's has {_rows(tensor)} rows"
    elif tensor.shape[1:] != own.shape[1:]:
        reason = f'the file has {tuple(tensor.shape)}'
    else:
        start.new[name] = move_rows(own, tensor, layout, start.classes, kept)
        start.moved.append(name)
    if reason:
        start.unkept.append(f'{name} ({reason})')


def _require_own_names(file: WeightFile, layers: Layers) -> None:
    """Refuse a model that renames what it loads, as mmdet's teachers and students."""
    if any(name in file.state for name in layers):
        return
    part = next((n for n in layers if n.partition('.')[2] in file.state), None)
    if part:
        raise UserError(
            f'this model has a detector inside ({part}), and {file.path} is of that '
            'alone: FineTuneHook does not look inside. Leave it out of custom_hooks.'
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
            f'heads of the model {count}. Set num_classes={len(wanted)} in each head.'
        )


def _names(
    file: WeightFile, start: Start, source_classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the file's class names, one for each of its classes."""
    count, names, where = start.classes, None, 'source_classes of the FineTuneHook'
    if source_classes is not None:
        names = require_names(source_classes, where)
    else:
        names, where = read_names(file.extras, file.path), 'the file'
        if names is None and count == COCO_CLASSES:
            from mmdet.datasets import CocoDataset

            names = tuple(CocoDataset.METAINFO['classes'])
            start.notes.append("the file has no class names: COCO's 80 are taken")
    if names is None:
        raise UserError(
            f'{file.path} has no class names, so that no rows can be kept by name. Set '
            f'the names of its classes ({count or "how many is not known"}), in its '
            'order, as source_classes of the FineTuneHook, or leave out keep_classes.'
        )
    if count is not None and len(names) != count:
        raise WeightsError(
            f'{where} has {len(names)} class names ({listed(names)}), but the class '
            f'layers of {file.path} have rows of {count} classes. It is of other heads '
            'than the config, or the names are of another file: set source_classes of '
            'the FineTuneHook, or leave out keep_classes.'
        )
    return names
