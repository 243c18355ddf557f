"""Layers of a detector that depend on its number of classes, and their rows.

A row is an index of a tensor's first dimension. Layouts of rows are those of
MMDetection 3.x (the same as 2.x): background last, anchors before classes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from eca_mmdet.utils.errors import UserError

_WITHOUT_CLASSES = frozenset(
    'backbone neck data_preprocessor init_cfg train_cfg test_cfg '
    'rpn_head semantic_head reid'.split()  # of objects or not, stuff, persons
)


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
