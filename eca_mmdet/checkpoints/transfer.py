"""Fit of a detector checkpoint to a model, and its transfer to other classes.

The layers of a detector that depend on its number of classes have rows of each class: a
row is an index of a tensor's first dimension. Layouts of rows are those of MMDetection
3.x (the same as 2.x): background last, anchors before classes.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from eca_mmdet.checkpoints.identify import read_heads, size_of
from eca_mmdet.checkpoints.io import Checkpoint, read_checkpoint, require_names
from eca_mmdet.utils.errors import UserError, WeightsError
from eca_mmdet.utils.text import clipped, first, plural

_WITHOUT_CLASSES = frozenset(
    'backbone neck data_preprocessor init_cfg train_cfg test_cfg '
    'rpn_head semantic_head reid'.split()  # of objects or not, stuff, persons
)


def require_fit(state: dict[str, Any], model: Any, checkpoint: str) -> None:
    """Load a checkpoint into a model; raise unless every tensor has its place.

    mmengine only warns: a test would then report the AP of random weights.
    """
    missing, extra, shapes = _compare(state, model)
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


def require_start(
    state: dict[str, Any], model: Any, checkpoint: str, backbone_checked: bool = False
) -> list[str]:
    """Return the tensors that a model trained from a detector starts new, with reasons.

    The file's backbone must be the model's, gates included, unless ``ECAPretrained``
    checked it by its own rules; heads and neck may differ.
    """
    if not any('backbone.' in key for key in state):
        raise WeightsError(
            f'load_from={checkpoint} is not a detector: no tensor is named backbone.… '
            "Backbone weights go to model.backbone.init_cfg=dict(type='ECAPretrained', "
            f'checkpoint={checkpoint!r}).',
            code='checkpoint-mismatch',
        )
    missing, _, shapes = _compare(state, model)
    lost = [name for name in missing + shapes if 'backbone.' in name]
    if lost and not backbone_checked:
        raise WeightsError(
            f'load_from={checkpoint} is of another backbone: {len(lost)} tensors would '
            f'stay random: {", ".join(lost[:3])}. See what it is: eca-mmdet weights '
            f'inspect {checkpoint}. To add attention to a detector: eca-mmdet '
            'attention add CONFIG NAME --weights FILE. Only the backbone of it is '
            "loaded by model.backbone.init_cfg (type 'ECAPretrained').",
            code='checkpoint-mismatch',
        )
    return [f'{name}: not in the file' for name in missing] + shapes


def _compare(
    state: dict[str, Any], model: Any
) -> tuple[list[str], list[str], list[str]]:
    """Load what fits; return names that are missing, extra, and of another shape."""
    model = getattr(model, 'module', model)
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
class RowLayout:
    """Rows of a class layer: ``blocks`` times (before, classes, after)."""

    blocks: int = 1  # repetitions, such as anchors
    before: int = 0  # rows of a block before those of its first class
    per_class: int = 1  # neighbouring rows of a class, such as 4 coordinates
    after: int = 0  # rows of a block after those of its last class

    def size(self, classes: int) -> int:
        """Return the number of rows."""
        return self.blocks * (self.before + self.per_class * classes + self.after)

    def classes(self, rows: int) -> int | None:
        """Return the number of classes of a layer with so many rows; None if none."""
        count = (rows // self.blocks - self.before - self.after) // self.per_class
        return count if count > 0 and self.size(count) == rows else None

    def rows(self, classes: int) -> tuple[Tensor, Tensor]:
        """Return the rows of each class and those of none, such as background's.

        Shape:
            int64 (classes, blocks * per_class) and (any,).
        """
        grid = torch.arange(self.size(classes)).reshape(self.blocks, -1)
        first, end = self.before, self.before + self.per_class * classes
        own = grid[:, first:end].reshape(self.blocks, classes, self.per_class)
        others = torch.cat((grid[:, :first], grid[:, end:]), dim=1).flatten()
        return own.transpose(0, 1).reshape(classes, -1), others


Layers = dict[str, RowLayout | None]
"""Tensors of class layers by name; None where the rows of a class are not known."""


def find_class_layers(
    model_cfg: Any, state: Mapping[str, Tensor], classes: int | None = None
) -> Layers:
    """Return a detector's tensors that have other shapes for other classes.

    The model is built twice without memory, once with one class more in every head.
    Where that is impossible, ``classes`` and the names of mmdet's usual heads decide.
    """
    layers = _by_shape(model_cfg) if model_cfg else {}
    found = {name: layers[name] for name in state if name in layers}
    if not found and classes:
        for name, tensor in state.items():
            if layout := layout_by_name(name, tensor.shape, classes):
                found[name] = layout
    if not found:
        raise UserError(
            'no layer of this model depends on its number of classes, as far as its '
            'config tells: expected num_classes in its heads. Set it there, or take '
            'FineTuneHook out of custom_hooks.',
            code='config-invalid',
        )
    return found


def _by_shape(model_cfg: Any) -> Layers:
    """Compare the shapes of a model with those of one with a class more."""
    more = copy.deepcopy(model_cfg)
    counts = [head['num_classes'] for _, head in class_heads(model_cfg)]
    classes = next((n for n in counts if isinstance(n, int) and n > 0), None)
    if classes is None:
        return {}
    for _, head in class_heads(more):
        if head['num_classes'] == classes:
            head['num_classes'] += 1
    try:
        states = (build_empty(cfg).state_dict() for cfg in (model_cfg, more))
        shapes, larger = ({k: tuple(v.shape) for k, v in s.items()} for s in states)
    except Exception:  # constructors raise anything, for a class too many as well
        return {}
    return {
        name: layout_between(name, shape, larger[name], classes)
        for name, shape in shapes.items()
        if name in larger and larger[name] != shape
    }


class UnfilledParameters(TorchFunctionMode):
    """Leave parameters as allocated inside: all of them come from a file, or none.

    On the meta device, filling them would import torch._dynamo, which takes seconds.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return a parameter as it is from functions that would fill it."""
        kwargs = kwargs or {}
        initializes = getattr(function, '__module__', None) == 'torch.nn.init'
        if initializes or function in (Tensor.normal_, Tensor.uniform_):
            tensor = kwargs['tensor'] if 'tensor' in kwargs else args[0]
            if isinstance(tensor, Parameter):
                return tensor
        return function(*args, **kwargs)


def build_empty(part: Any, in_memory: bool = True) -> Any:
    """Build a model, or a part, without memory and random numbers of this run.

    If its constructor computes with values it takes memory after all, or with
    ``in_memory=False`` raises RuntimeError.
    """
    from mmdet.registry import MODELS

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with torch.device('meta'), UnfilledParameters():
                return MODELS.build(copy.deepcopy(part))
        except RuntimeError:  # NotImplementedError is one
            if not in_memory:
                raise
            return MODELS.build(copy.deepcopy(part))


def class_heads(part: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and config of each part of a model that counts classes, at any depth.

    The heads of a cascade have paths of their own: ``('roi_head', 'bbox_head', '0')``.
    """
    if isinstance(part, (list, tuple)):
        part = dict(enumerate(part))
    elif not isinstance(part, dict):
        return
    elif 'num_classes' in part:
        yield path, part
    for key, entry in part.items():
        if key not in _WITHOUT_CLASSES:
            yield from class_heads(entry, *path, str(key))


def layout_between(
    name: str, shape: Sequence[int], larger: Sequence[int], classes: int
) -> RowLayout | None:
    """Return the layout of a layer from its shape for ``classes`` and for one more."""
    if not shape or tuple(shape[1:]) != tuple(larger[1:]):
        return None
    slope = larger[0] - shape[0]
    rest = shape[0] - slope * classes
    layer = name.removesuffix('.weight').removesuffix('.bias').split('.')
    if layer[-1] == 'fc_reg' and rest == 0:
        return RowLayout(per_class=slope)
    if slope == 1 and rest in (0, 1):
        return RowLayout(after=rest)
    if slope < 1:
        return None
    if 'convs_pred' in layer and rest == 5 * slope:  # YOLOv3: box, objectness, scores
        return RowLayout(slope, before=5)
    scores = layer[-1].endswith('_cls') and layer[-1] != 'fc_cls'
    scores |= layer[-1] == 'cls_score' or 'cls_convs' in layer  # YOLOF's, SSD's
    if scores and rest in (0, slope):
        return RowLayout(slope, after=rest // slope)
    return None


def layout_by_name(name: str, shape: Sequence[int], classes: int) -> RowLayout | None:
    """Return the layout of a layer of a known name; None for any other."""
    layer = name.removesuffix('.weight').removesuffix('.bias').split('.')[-1]
    rows = shape[0] if shape else 0
    per_class = {'fc_cls': 1, 'fc_reg': 4, 'conv_logits': 1, 'rpn_cls': 0}.get(layer)
    if per_class is None:
        per_class = rows // classes if layer.endswith('_cls') else 0
    return layout_between(name, shape, (rows + per_class, *shape[1:]), classes)


def move_rows(
    own: Tensor, file: Tensor, layout: RowLayout, classes: int, kept: Mapping[int, int]
) -> Tensor:
    """Return a copy of a new layer with rows from a file: of kept classes and of none.

    ``kept`` maps a class of the model to one of the file's ``classes``; not empty.
    """
    count = layout.classes(own.shape[0])
    assert count is not None and layout.size(classes) == file.shape[0]
    to, to_others = layout.rows(count)
    source, source_others = layout.rows(classes)
    targets = torch.cat([to_others, to[list(kept)].flatten()])
    sources = torch.cat([source_others, source[list(kept.values())].flatten()])
    new = own.detach().clone()
    new[targets.to(new.device)] = file[sources.to(file.device)].to(new)
    return new


def match_classes(
    wanted: Sequence[str], names: Sequence[str]
) -> tuple[dict[int, int], list[str]]:
    """Compare a model's class names with a file's, letter by letter.

    Returns the model's classes that the file has, as its indices to the file's; and for
    the log, the others that differ only in case, spaces, hyphens or underscores.
    """

    def loose(name: str) -> str:
        return re.sub('[ _-]', '', name.casefold())

    at = {name: index for index, name in enumerate(names)}
    similar = {loose(name): name for name in reversed(names)}
    kept = {index: at[name] for index, name in enumerate(wanted) if name in at}
    others = [name for name in wanted if name not in at and loose(name) in similar]
    return kept, [f'{name} (file: {similar[loose(name)]})' for name in others]


@dataclass
class TransferPlan:
    """The class layers of a model that starts from a file."""

    classes: int | None  # in the file; None where its class layers do not show it
    layers: Layers  # of the model
    wanted: Sequence[str] = ()  # the model's classes, if rows are kept by their names
    kept: dict[int, int] = field(default_factory=dict)  # class of the model to file's
    near: list[str] = field(default_factory=list)  # similar names that are not equal
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
        names = _names(file, plan, source_classes)
        plan.wanted = wanted
        plan.kept, plan.near = match_classes(wanted, names)
    for name in shared:
        tensor, layout = file.state[name], layers[name]
        plan.new[name] = own[name].detach().clone()
        if not plan.kept:
            continue
        if layout is None:
            reason = 'a layer whose rows are not known here'
        elif plan.classes is None or layout.classes(size_of(tensor)) != plan.classes:
            reason = f"the file's has {size_of(tensor)} rows"
        elif tensor.shape[1:] != own[name].shape[1:]:
            reason = f'the file has {tuple(tensor.shape)}'
        else:
            rows = own[name], tensor, layout, plan.classes, plan.kept
            plan.new[name] = move_rows(*rows)
            plan.moved.append(name)
            continue
        plan.unkept.append(f'{name} ({reason})')
    return plan


def _count(state: Mapping[str, Tensor], layers: Layers) -> int | None:
    """Return the most classes of a layer: one that serves all looks like one class."""
    counts = (
        layout.classes(size_of(state[name])) or 0
        for name, layout in layers.items()
        if layout and name in state
    )
    return max(counts, default=0) or None


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
    count = f' ({plural(plan.classes, "class")})' if plan.classes else ''
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
    if plan.near:
        lines.append(f'similar names are not taken for equal: {_listed(plan.near)}')
    return lines


def _about_classes(plan: TransferPlan) -> str:
    moved, layers = (
        dict.fromkeys(sorted(name.rpartition('.')[0] or name for name in names))
        for names in (plan.moved, plan.layers)
    )
    lines = []
    if moved:
        same = [plan.wanted[index] for index in plan.kept]
        others = [n for i, n in enumerate(plan.wanted) if i not in plan.kept]
        which = f'all {plural(len(same), "class")}'
        if others:
            which = f'{len(same)} of {len(plan.wanted)} classes: {_listed(same)}'
            which += f'; new: {_listed(others)}'
        keep = f'{plural(len(moved), "class layer")} keep' + 's' * (len(moved) == 1)
        lines.append(f'{keep} the rows of {which}')
    if new := [layer for layer in layers if layer not in moved]:
        start = f'{plural(len(new), "class layer")} start' + 's' * (len(new) == 1)
        lines.append(f'{start} new: {_listed(new)}')
        if plan.wanted and not plan.kept:
            lines.append(f'no class has a name of the file: {_listed(plan.wanted)}')
    return '; '.join(lines)


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
        line += f', {plural(count, "class")}{named}'
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
