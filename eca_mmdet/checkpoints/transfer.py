"""Fit of a detector checkpoint to a model, and its transfer to other classes."""

from __future__ import annotations

import re
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
from eca_mmdet.checkpoints.identify import read_heads, size_of
from eca_mmdet.checkpoints.io import Checkpoint, read_checkpoint, require_names
from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.text import clipped, first


def require_fit(state: dict[str, Any], model: Any, checkpoint: str) -> None:
    """Load a checkpoint into a model; raise unless every tensor has its place.

    mmengine only warns: a test would then report the AP of random weights.
    """
    missing, extra, shapes = _compare(state, getattr(model, 'module', model))
    faults = counted(
        (missing, 'of the model are not in the file'),
        (extra, 'of the file are not in the model'),
        (shapes, 'have another shape'),
    )
    if faults:
        raise WeightsError(
            f'{checkpoint} is not a checkpoint of this config. ' + '; '.join(faults),
            code='checkpoint-mismatch',
        )


def counted(*problems: tuple[list[str], str]) -> list[str]:
    """Return a sentence for each list with tensors: their number and first names."""
    return [
        f'{len(keys)} tensors {title}: {first(keys)}'
        for keys, title in problems
        if keys
    ]


def other_shapes(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], owner: str
) -> list[str]:
    """Return the tensors of a file that have another shape than the owner's."""
    return [
        f'{key} (file {tuple(state[key].shape)}, {owner} {tuple(own[key].shape)})'
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]


def require_converted(file: Checkpoint) -> None:
    """Reject an unconverted MMDetection v1 checkpoint: its class order differs."""
    heads = read_heads(file.state, file.extras)
    if heads and heads.version == 'v1':
        raise WeightsError(
            f'{file.path} is a {heads.title}, whose classes and layers are in another '
            'order than in 3.x. Convert it: eca-mmdet weights convert '
            f'{file.path} NEW.pth, and start from NEW.pth (docs/legacy.md).',
            code='checkpoint-mismatch',
        )


def require_start(state: dict[str, Any], model: Any, checkpoint: str) -> list[str]:
    """Return the tensors that a model trained from a detector starts new, with reasons.

    The file's backbone must be the model's, gates included; heads and neck may differ.
    """
    model = getattr(model, 'module', model)
    if not any('backbone.' in key for key in state):
        raise WeightsError(
            f'load_from={checkpoint} is not a detector: no tensor is named backbone.… '
            "Backbone weights go to model.backbone.init_cfg=dict(type='ECAPretrained', "
            f'checkpoint={checkpoint!r}).',
            code='checkpoint-mismatch',
        )
    missing, _, shapes = _compare(state, model)
    lost = [name for name in missing + shapes if 'backbone.' in name]
    if lost:
        raise WeightsError(
            f'load_from={checkpoint} is of another backbone: {len(lost)} tensors would '
            f'stay random: {", ".join(lost[:3])}. See what it is: eca-mmdet weights '
            f'inspect {checkpoint}. Only its backbone is loaded by '
            "model.backbone.init_cfg (type 'ECAPretrained', which may allow random "
            'gates).',
            code='checkpoint-mismatch',
        )
    return [f'{name}: not in the file' for name in missing] + shapes


def _compare(
    state: dict[str, Any], model: Any
) -> tuple[list[str], list[str], list[str]]:
    """Load what fits; return names that are missing, extra, and of another shape."""
    own = model.state_dict()
    fitting = {
        k: v for k, v in state.items() if k not in own or v.shape == own[k].shape
    }
    # A real load, since layers may rename the keys of older files on the way.
    found = model.load_state_dict(fitting, strict=False)
    missing = [
        key
        for key in found.missing_keys
        if key not in state and not key.endswith('num_batches_tracked')
    ]
    return missing, list(found.unexpected_keys), other_shapes(state, own, 'model')


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

    def loose(name: str) -> str:
        return re.sub('[ _-]', '', name.casefold())

    at = {name: index for index, name in enumerate(names)}
    similar = {loose(name): name for name in reversed(names)}
    new = tuple(name for name in wanted if name not in at)
    return ClassMatch(
        kept={index: at[name] for index, name in enumerate(wanted) if name in at},
        same=tuple(name for name in wanted if name in at),
        new=new,
        near=tuple((n, similar[loose(n)]) for n in new if loose(n) in similar),
    )


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
    kept = plan.match.kept if plan.match else {}
    for name in shared:
        tensor, layout = file.state[name], layers[name]
        plan.new[name] = own[name].detach().clone()
        if not kept:
            continue
        if layout is None:
            reason = 'a layer whose rows are not known here'
        elif plan.classes is None or layout.classes(size_of(tensor)) != plan.classes:
            reason = f"the file's has {size_of(tensor)} rows"
        elif tensor.shape[1:] != own[name].shape[1:]:
            reason = f'the file has {tuple(tensor.shape)}'
        else:
            plan.new[name] = move_rows(own[name], tensor, layout, plan.classes, kept)
            plan.moved.append(name)
            continue
        plan.unkept.append(f'{name} ({reason})')
    return plan


def _count(state: Mapping[str, Tensor], layers: Layers) -> int | None:
    """Return the most classes of a layer: one that serves all looks like one class."""
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
    count, where = plan.classes, 'the file'
    names = file.classes if source_classes is None else None
    if source_classes is not None:
        where = 'source_classes of the FineTuneHook'
        names = require_names(source_classes, where)
    elif names is None and count == 80:
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
    line = f'fine-tuning from {clipped(file.path, 200)}{count}: {_about_classes(plan)}'
    line += f"; {sum(fits.values())} other tensors are the file's"
    if new := [name for name, fitting in fits.items() if not fitting]:
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
    def layers_of(names: Iterable[str]) -> list[str]:
        return sorted({name.rpartition('.')[0] or name for name in names})

    moved = layers_of(plan.moved)
    new = [layer for layer in layers_of(plan.layers) if layer not in moved]
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
        start = _many(len(new), 'class layer starts new', 'class layers start new')
        lines.append(f'{start}: {_listed(new)}')
        if plan.match and not plan.match.kept:
            lines.append(f'no class has a name of the file: {_listed(plan.match.new)}')
    return '; '.join(lines)


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
    heads = read_heads(file.state, file.extras)
    line = f'{path}: {heads.title if heads else "detector"}'
    names = source_classes or _names_or_none(file)
    if count := plan.classes or len(names or ()):
        named = f': {_listed(names)}' if names else ', which it does not name'
        line += f', {_many(count, "class", "classes")}{named}'
    else:
        line += '; its number of classes is not known'
    return [line, *summary_lines(plan, file, own)]


def other_classes(file: Checkpoint, wanted: Iterable[str] | None) -> list[str]:
    """Return a warning if equally many but other classes would keep their layers."""
    names, mine = _names_or_none(file), tuple(wanted or ())
    if not names or not mine or len(names) != len(mine) or names == mine:
        return []
    at = next(i for i, name in enumerate(mine) if name != names[i])
    return [
        f'warning: {file.path} is of {len(names)} other classes, or of another order '
        f'(class {at}: {clipped(names[at])}, here {clipped(mine[at])}), and its class '
        'layers are kept as they are. To start them new: custom_hooks=[dict('
        "type='FineTuneHook')]; keep_classes=True in it keeps the rows of equal names"
    ]


def _names_or_none(file: Checkpoint) -> tuple[str, ...] | None:
    try:
        return file.classes
    except WeightsError:
        return None


def _listed(names: Sequence[str]) -> str:
    """Return the first names for a line."""
    return first([clipped(name) for name in names], 6)
