"""Transfer of a detector checkpoint to other classes: planned and described.

Nothing here trains; :class:`eca_mmdet.engine.load_from.FineTuneHook` does.
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
from eca_mmdet.checkpoints.detector import (
    read_heads,
    require_converted,
    require_start,
    size_of,
)
from eca_mmdet.checkpoints.io import Checkpoint, read_checkpoint, require_names
from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.text import clipped, first


@dataclass(frozen=True)
class ClassMatch:
    """Which classes of a model have a class of the same name in a file."""

    kept: dict[int, int]  # class of the model to class of the file
    same: tuple[str, ...]  # names of the kept classes
    new: tuple[str, ...]  # names of the others
    # (name, name in the file) of new classes whose names differ only in case, spaces,
    # hyphens or underscores.
    near: tuple[tuple[str, str], ...]


def match_classes(wanted: Sequence[str], names: Sequence[str]) -> ClassMatch:
    """Compare a model's class names with a file's, letter by letter."""
    at = {name: index for index, name in enumerate(names)}
    kept = {index: at[name] for index, name in enumerate(wanted) if name in at}
    same = tuple(name for name in wanted if name in at)
    new = tuple(name for name in wanted if name not in at)
    loose = {_loose(name): name for name in reversed(names)}
    near = [(name, loose[_loose(name)]) for name in new if _loose(name) in loose]
    return ClassMatch(kept, same, new, tuple(near))


def _loose(name: str) -> str:
    return ''.join(char for char in name.casefold() if char not in ' _-')


@dataclass
class TransferPlan:
    """The class layers of a model that starts from a file."""

    classes: int | None  # in the file; None where its class layers do not show it
    layers: Layers  # of the model
    match: ClassMatch | None = None  # None where no class is to keep its rows
    # Class tensors that take over rows, or start new though the file has them.
    new: dict[str, Tensor] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)  # tensors that take over rows
    unkept: list[str] = field(default_factory=list)  # layers, each with the reason
    notes: list[str] = field(default_factory=list)  # further lines for the log


def plan_transfer(
    file: Checkpoint,
    own: Mapping[str, Tensor],
    layers: Layers,
    wanted: Sequence[str] | None = None,
    source_classes: Sequence[str] | None = None,
) -> TransferPlan:
    """Work out the class layers of a model that starts from a detector's file.

    With the class names ``wanted``, rows of equal names are kept; ``source_classes``
    names the file's classes where it does not. ``own`` is the model's new state dict.
    """
    require_converted(file)
    shared = [name for name in layers if name in file.state]
    inner = [name for name in layers if name.partition('.')[2] in file.state]
    if inner and not shared:  # such as mmdet's teachers, which rename what they load
        raise UserError(
            f'this model has a detector inside ({inner[0]}), and {file.path} is only '
            'of that: FineTuneHook does not look inside. Leave it out of custom_hooks.',
            code='unsupported-model',
        )
    plan = TransferPlan(_count(file.state, layers), layers)
    count = _count(own, layers)
    if wanted is not None and count not in (None, len(wanted)):
        raise UserError(
            f'the training data have {len(wanted)} classes ({_listed(wanted)}), the '
            f'heads of the model {count}. Set num_classes={len(wanted)} in each head.',
            code='class-mismatch',
        )
    if wanted is not None and shared:
        plan.match = match_classes(wanted, _names(file, plan, source_classes))
    for name in shared:
        plan.new[name] = own[name].detach().clone()
        if plan.match and plan.match.kept:
            _move(name, file.state[name], plan, plan.match.kept)
    return plan


def _move(
    name: str, tensor: Tensor, plan: TransferPlan, kept: Mapping[int, int]
) -> None:
    """Take over a layer's rows, or note why not."""
    own, layout = plan.new[name], plan.layers[name]
    if layout is None:
        reason = 'a layer whose rows are not known here'
    elif plan.classes is None or layout.classes(size_of(tensor)) != plan.classes:
        reason = f"the file's has {size_of(tensor)} rows"
    elif tensor.shape[1:] != own.shape[1:]:
        reason = f'the file has {tuple(tensor.shape)}'
    else:
        plan.new[name] = move_rows(own, tensor, layout, plan.classes, kept)
        plan.moved.append(name)
        return
    plan.unkept.append(f'{name} ({reason})')


def _count(state: Mapping[str, Tensor], layers: Layers) -> int | None:
    """Return the largest number of classes of the layers.

    A layer that serves all classes at once looks like one of a single class.
    """
    counts = [
        layout.classes(size_of(state[name]))
        for name, layout in layers.items()
        if layout and name in state
    ]
    return max((count for count in counts if count), default=None)


def _names(
    file: Checkpoint, plan: TransferPlan, source_classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the file's class names, one for each of its classes."""
    count = plan.classes
    if source_classes is None:
        names, where = file.classes, 'the file'
        if names is None and count == 80:
            from mmdet.datasets import CocoDataset

            names = tuple(CocoDataset.METAINFO['classes'])
            plan.notes.append("the file has no class names: COCO's 80 are taken")
    else:
        where = 'source_classes of the FineTuneHook'
        names = require_names(source_classes, where)
    if names is None:
        raise UserError(
            f'{file.path} has no class names, so that no rows can be kept by name. Set '
            f'the names of its classes ({count or "how many is not known"}), in its '
            'order, as source_classes of the FineTuneHook, or leave out keep_classes.',
            code='class-mismatch',
        )
    if count is not None and len(names) != count:
        raise WeightsError(
            f'{where} has {len(names)} class names ({_listed(names)}), but the class '
            f'layers of {file.path} have rows of {count} classes. It is of other heads '
            'than the config, or the names are of another file: set source_classes of '
            'the FineTuneHook, or leave out keep_classes.',
            code='class-mismatch',
        )
    return names


def summary_lines(
    plan: TransferPlan, file: Checkpoint, model: Mapping[str, Tensor]
) -> list[str]:
    """Return log lines: which tensors the file gives and which start new."""
    count = f' ({_many(plan.classes, "class", "classes")})' if plan.classes else ''
    fits = {
        name: name in file.state and file.state[name].shape == tensor.shape
        for name, tensor in model.items()
        if name not in plan.layers and not name.endswith('num_batches_tracked')
    }
    new = [name for name, fitting in fits.items() if not fitting]
    line = f'fine-tuning from {clipped(file.path, 200)}{count}: {_about_classes(plan)}'
    line += f"; {sum(fits.values())} other tensors are the file's"
    if new:
        line += f', {len(new)} start new: {_listed(new)}'
    lines = [line, *plan.notes]
    absent = [name for name in plan.layers if name not in file.state]
    if absent:
        lines.append(f'not in the file, so new: {_listed(absent)}')
    if plan.unkept:
        shown = '; '.join(plan.unkept[:6]) + '; ...' * (len(plan.unkept) > 6)
        lines.append(f'rows not kept, all new: {shown}')
    if plan.match and plan.match.near:
        near = [f'{name} (file: {theirs})' for name, theirs in plan.match.near]
        lines.append(f'similar names are not taken for equal: {_listed(near)}')
    return lines


def _about_classes(plan: TransferPlan) -> str:
    moved = _parts(plan.moved)
    new = [part for part in _parts(plan.layers) if part not in moved]
    lines = []
    if moved and plan.match:
        same, others = plan.match.same, plan.match.new
        which = f'all {_many(len(same), "class", "classes")}'
        if others:
            which = f'{len(same)} of {len(same + others)} classes: {_listed(same)}'
            which += f'; new: {_listed(others)}'
        keep = _many(len(moved), 'class layer keeps', 'class layers keep')
        lines.append(f'{keep} the rows of {which}')
    if new:
        start_new = 'class layer starts new', 'class layers start new'
        lines.append(f'{_many(len(new), *start_new)}: {_listed(new)}')
        if plan.match and not plan.match.kept:
            lines.append(f'no class has a name of the file: {_listed(plan.match.new)}')
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
    """Return what training from a detector's file would log, and a line on the file.

    ``classes`` are the model's; ``keep_classes`` and ``source_classes`` are those of
    the FineTuneHook.
    """
    model = build_empty(model_cfg)
    own = model.state_dict()
    file = read_checkpoint(path).named_as(own)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # nothing is copied into an empty model
        require_start(file.state, model, path)
    layers = find_class_layers(model_cfg, own, len(classes))
    wanted = classes if keep_classes else None
    plan = plan_transfer(file, own, layers, wanted, source_classes)
    return [_about_file(file, plan, source_classes), *summary_lines(plan, file, own)]


def _about_file(
    file: Checkpoint, plan: TransferPlan, source_classes: Sequence[str] | None
) -> str:
    heads = read_heads(file.state, file.extras)
    kind = heads.title if heads else 'detector'
    try:
        names = source_classes or file.classes
    except WeightsError:
        names = None
    known = f': {_listed(names)}' if names else ', which it does not name'
    count = plan.classes or (len(names) if names else None)
    if count is None:
        return f'{file.path}: {kind}; its number of classes is not known'
    return f'{file.path}: {kind}, {_many(count, "class", "classes")}{known}'


def other_classes(file: Checkpoint, wanted: Iterable[str] | None) -> list[str]:
    """Return a warning if equally many but other classes would keep their layers."""
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


def _listed(names: Sequence[str]) -> str:
    """Return the first names for a line."""
    return first([clipped(name) for name in names], 6)
