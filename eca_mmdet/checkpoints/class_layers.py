"""Layers of a detector that depend on its number of classes, and their rows.

A row is an index of a tensor's first dimension. Layouts of rows are those of
MMDetection 3.x (the same as 2.x): background last, anchors before classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eca_mmdet.utils.errors import UserError

_OTHER_PARTS = (
    'backbone',
    'neck',
    'rpn_head',  # object or not
    'semantic_head',  # its classes are stuff
    'data_preprocessor',
    'init_cfg',
    'train_cfg',
    'test_cfg',
)


@dataclass(frozen=True)
class RowLayout:
    """Rows of a class layer: ``blocks`` times (before, classes, after).

    Attributes:
        blocks: repetitions, such as anchors.
        before: rows of a block before those of its first class.
        per_class: neighbouring rows of one class, such as 4 coordinates.
        after: rows of a block after those of its last class, such as background.
    """

    blocks: int = 1
    before: int = 0
    per_class: int = 1
    after: int = 0

    def size(self, classes: int) -> int:
        """Return the number of rows."""
        return self.blocks * (self.before + self.per_class * classes + self.after)

    def classes(self, rows: int) -> int | None:
        """Return the number of classes of a layer with so many rows; None if none."""
        found = (rows // self.blocks - self.before - self.after) // self.per_class
        return found if found > 0 and self.size(found) == rows else None

    def rows(self, classes: int) -> Tensor:
        """Return the rows of each class: int64 (classes, blocks * per_class)."""
        grid = self._grid(classes)[:, self.before : self._end(classes)]
        grid = grid.reshape(self.blocks, classes, self.per_class)
        return grid.transpose(0, 1).reshape(classes, -1)

    def others(self, classes: int) -> Tensor:
        """Return the rows of no class, such as background's: int64 (any,)."""
        grid = self._grid(classes)
        ends = (grid[:, : self.before], grid[:, self._end(classes) :])
        return torch.cat(ends, dim=1).flatten()

    def _grid(self, classes: int) -> Tensor:
        return torch.arange(self.size(classes)).reshape(self.blocks, -1)

    def _end(self, classes: int) -> int:
        return self.before + self.per_class * classes


Layers = dict[str, RowLayout | None]
"""Tensors of class layers by name; None where the rows of a class are not known."""


def find_class_layers(
    model_cfg: Any, state: Mapping[str, Tensor], classes: int | None = None
) -> Layers:
    """Return a detector's tensors that have other shapes for other classes.

    The model is built twice without memory, once with one class more in every head.
    Where that cannot be done, the names of mmdet's usual heads are looked for.

    Args:
        model_cfg: as ``cfg.model``; not changed. None for a model without a config.
        state: of the model.
        classes: of the data; needed where the config does not say it.

    Raises:
        UserError: there are none.
    """
    layers = _by_shape(model_cfg) if model_cfg else {}
    found = {name: layers[name] for name in state if name in layers}
    if not found and classes:
        names = ((name, tuple(tensor.shape)) for name, tensor in state.items())
        known = {name: layout_by_name(name, shape, classes) for name, shape in names}
        found = {name: layout for name, layout in known.items() if layout}
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
    plain, more = _copied(model_cfg), _copied(model_cfg)
    counts = [part['num_classes'] for part in _heads(plain)]
    if not counts:
        return {}
    classes = counts[0]
    for part in _heads(more):
        if part['num_classes'] == classes:
            part['num_classes'] += 1
    try:
        shapes, larger = _shapes(plain), _shapes(more)
    except Exception:  # constructors raise anything, for a class too many as well
        return {}
    return {
        name: layout_between(name, shape, larger[name], classes)
        for name, shape in shapes.items()
        if name in larger and larger[name] != shape
    }


def build_empty(model_cfg: Any) -> Any:
    """Build a model from no random numbers of this run, and without memory.

    A model whose constructor computes with values takes memory after all.

    Args:
        model_cfg: as ``cfg.model``; not changed.
    """
    from mmdet.registry import MODELS

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with torch.device('meta'):
                return MODELS.build(_copied(model_cfg))
        except (RuntimeError, NotImplementedError):
            return MODELS.build(_copied(model_cfg))


def _shapes(model_cfg: Any) -> dict[str, tuple[int, ...]]:
    state = build_empty(model_cfg).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _copied(value: Any) -> Any:
    """Copy the dicts and lists of a config, and nothing else."""
    if isinstance(value, dict):
        return type(value)({key: _copied(entry) for key, entry in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)([_copied(entry) for entry in value])
    return value


def _heads(part: Any) -> Iterator[Any]:
    """Yield every dict with a number of classes, of whatever depth."""
    if isinstance(part, (list, tuple)):
        for entry in part:
            yield from _heads(entry)
    elif isinstance(part, dict):
        count = part.get('num_classes')
        if isinstance(count, int) and count > 0:
            yield part
        for key, entry in part.items():
            if key not in _OTHER_PARTS:
                yield from _heads(entry)


def layout_between(
    name: str, shape: Sequence[int], larger: Sequence[int], classes: int
) -> RowLayout | None:
    """Return the layout of a layer from its shapes for two numbers of classes.

    Args:
        name: of the tensor; tells where one row for each class is not what it has.
        shape: for ``classes``.
        larger: for one class more.
        classes: without background.

    Returns:
        The layout; None for a kind that is not known.
    """
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
    """Return the layout of a layer of a known name, and None for any other.

    Args:
        name: of the tensor.
        shape: for ``classes``.
        classes: without background.
    """
    layer = name.removesuffix('.weight').removesuffix('.bias').split('.')[-1]
    rows = shape[0] if shape else 0
    known = {
        'fc_cls': RowLayout(after=1),
        'fc_reg': RowLayout(per_class=4),
        'conv_logits': RowLayout(),
    }.get(layer)
    if known is None and layer.endswith('_cls') and layer != 'rpn_cls':
        known = RowLayout(blocks=max(1, rows // classes))
    return known if known and known.size(classes) == rows else None


def move_rows(
    own: Tensor, file: Tensor, layout: RowLayout, classes: int, kept: Mapping[int, int]
) -> Tensor:
    """Return a layer with the rows of some classes, and of none, from a file.

    Args:
        own: the layer as it starts new; not changed.
        file: the file's, of ``classes`` classes.
        layout: of both.
        classes: of the file.
        kept: class of the model to class of the file; not empty.

    Shape:
        ``own`` and ``file`` differ only in their first dimension.
    """
    count = layout.classes(own.shape[0])
    assert count is not None and layout.size(classes) == file.shape[0]
    to, source = layout.rows(count), layout.rows(classes)
    targets = torch.cat([layout.others(count), to[list(kept)].flatten()])
    sources = torch.cat([layout.others(classes), source[list(kept.values())].flatten()])
    new = own.detach().clone()
    new[targets.to(new.device)] = file[sources.to(file.device)].to(new)
    return new
