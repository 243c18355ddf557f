"""What is said of a training that starts from a detector of other classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from eca_mmdet.checkpoints.detector import (
    read_checkpoint,
    require_converted,
    require_start,
)
from eca_mmdet.checkpoints.detector_kind import read_heads
from eca_mmdet.checkpoints.io import WeightFile
from eca_mmdet.checkpoints.transfer.class_layers import build_empty, find_class_layers
from eca_mmdet.checkpoints.transfer.class_names import listed, read_names
from eca_mmdet.checkpoints.transfer.plan import Start, plan_start
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import clipped


def tell(start: Start, file: WeightFile, model: Mapping[str, Tensor]) -> list[str]:
    """Return lines that say what is the file's and what starts new.

    Args:
        start: as planned.
        file: it starts from.
        model: tensors of the model; of their shapes alone.
    """
    count = f' ({_many(start.classes, "class", "classes")})' if start.classes else ''
    others = [
        name
        for name in model
        if name not in start.layers and not name.endswith('num_batches_tracked')
    ]
    taken = [name for name in others if _fits(name, file.state, model)]
    new = [name for name in others if name not in taken]
    line = f'fine-tuning from {clipped(file.path, 200)}{count}: '
    line += _about_classes(start)
    line += f"; {len(taken)} other tensors are the file's"
    if new:
        line += f', {len(new)} start new: {listed(new)}'
    lines = [line, *start.notes]
    absent = [name for name in start.layers if name not in file.state]
    if absent:
        lines.append(f'not in the file, so new: {listed(absent)}')
    if start.unkept:
        shown = '; '.join(start.unkept[:6]) + '; ...' * (len(start.unkept) > 6)
        lines.append(f'rows not kept, all new: {shown}')
    if start.match and start.match.near:
        near = [f'{name} (file: {theirs})' for name, theirs in start.match.near]
        lines.append(f'similar names are not taken for equal: {listed(near)}')
    return lines


def _fits(name: str, state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> bool:
    return name in state and state[name].shape == model[name].shape


def _about_classes(start: Start) -> str:
    moved = _parts(start.moved)
    new = [part for part in _parts(start.layers) if part not in moved]
    lines = []
    if moved and start.match:
        found = start.match
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
        if start.match and not start.match.kept:
            lines.append(f'no class has a name of the file: {listed(start.match.new)}')
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
    from eca_mmdet import registration

    registration.register()
    file = read_checkpoint(path)
    require_converted(file)
    model = build_empty(model_cfg)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # nothing is copied into an empty model
        require_start(file.state, model, path)
    own = model.state_dict()
    layers = find_class_layers(model_cfg, own, len(classes))
    wanted = classes if keep_classes else None
    start = plan_start(file, own, layers, wanted, source_classes)
    return [_about_file(file, start, source_classes), *tell(start, file, own)]


def _about_file(
    file: WeightFile, start: Start, source_classes: Sequence[str] | None
) -> str:
    heads = read_heads(file.state, file.extras)
    kind = f'{heads.detector} of MMDetection {heads.version}' if heads else 'detector'
    try:
        names = source_classes or read_names(file.extras, file.path)
    except WeightsError:
        names = None
    known = f': {listed(names)}' if names else ', which it does not name'
    count = start.classes or (len(names) if names else None)
    if count is None:
        return f'{file.path}: {kind}; its number of classes is not known'
    return f'{file.path}: {kind}, {_many(count, "class", "classes")}{known}'


def other_classes(file: WeightFile, wanted: Iterable[str] | None) -> list[str]:
    """Return a warning if equally many but other classes would keep their layers.

    Args:
        file: to start from, without a FineTuneHook.
        wanted: class names of the training data, if they are known.
    """
    try:
        names = read_names(file.extras, file.path)
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
