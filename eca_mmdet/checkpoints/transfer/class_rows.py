"""Which rows of a layer belong to which class, and how they move to other classes.

A row is an index of a tensor's first dimension. Layouts are those of MMDetection 3.x
(the same as 2.x): background last, anchors before classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
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


def layout_between(
    name: str, shape: Sequence[int], larger: Sequence[int], classes: int
) -> Layout | None:
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
        return Layout(per_class=slope)
    if slope == 1 and rest in (0, 1):
        return Layout(after=rest)
    if slope < 1:
        return None
    if 'convs_pred' in layer and rest == 5 * slope:  # YOLOv3: box, objectness, scores
        return Layout(slope, before=5)
    scores = layer[-1].endswith('_cls') and layer[-1] != 'fc_cls'
    scores |= layer[-1] == 'cls_score' or 'cls_convs' in layer  # YOLOF's, SSD's
    if scores and rest in (0, slope):
        return Layout(slope, after=rest // slope)
    return None


def layout_by_name(name: str, shape: Sequence[int], classes: int) -> Layout | None:
    """Return the layout of a layer of a known name, and None for any other.

    Args:
        name: of the tensor.
        shape: for ``classes``.
        classes: without background.
    """
    layer = name.removesuffix('.weight').removesuffix('.bias').split('.')[-1]
    rows = shape[0] if shape else 0
    known = {
        'fc_cls': Layout(after=1),
        'fc_reg': Layout(per_class=4),
        'conv_logits': Layout(),
    }.get(layer)
    if known is None and layer.endswith('_cls') and layer != 'rpn_cls':
        known = Layout(blocks=max(1, rows // classes))
    return known if known and known.size(classes) == rows else None


def move_rows(
    own: Tensor, file: Tensor, layout: Layout, classes: int, kept: Mapping[int, int]
) -> Tensor:
    """Return a layer with the rows of some classes, and of none, from a file.

    Args:
        own: the layer as it starts new; not changed.
        file: the file's, of ``classes`` classes.
        layout: of both.
        classes: of the file.
        kept: class of the model to class of the file; not empty.

    Shape:
        ``own`` and ``file`` differ in their first dimension alone.
    """
    count = layout.classes(own.shape[0])
    assert count is not None and layout.size(classes) == file.shape[0]
    to, source = layout.rows(count), layout.rows(classes)
    targets = torch.cat([layout.others(count), to[list(kept)].flatten()])
    sources = torch.cat([layout.others(classes), source[list(kept.values())].flatten()])
    new = own.detach().clone()
    new[targets.to(new.device)] = file[sources.to(file.device)].to(new)
    return new
