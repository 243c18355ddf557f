"""Exact cost of a detector, part by part.

Multiply-adds are those of convolutions and matrix products, as PyTorch's own
``FlopCounterMode`` counts them; element-wise work is not included.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from eca_mmdet.catalog.mechanisms import ADDING_LAYERS
from eca_mmdet.models.attention import ChannelGate, Gate
from eca_mmdet.utils.errors import UserError

Wrap = Callable[[str, Callable[[], Any]], Any]
"""Called with a part's name and what runs it."""

Meter = Callable[[], int]  # returns a total that grows while a model runs


def run_parts(
    model: Any,
    shape: tuple[int, int],
    images: int,
    box_regions: int,
    mask_regions: int,
    wrap: Wrap = lambda name, run: run(),
) -> None:
    """Run backbone, neck and heads on empty input; not the steps between them.

    The detector has a dense head, or an RPN and RoI heads; the meta device needs no
    memory. ``shape`` is the height and width in pixels; the regions of the box head
    (each one of a cascade) and of the mask head are those of all images.
    """
    parameter = next(model.parameters())
    x = parameter.new_zeros(images, 3, *shape)
    maps: Any = wrap('backbone', functools.partial(model.backbone, x))
    if getattr(model, 'with_neck', False):
        maps = wrap('neck', functools.partial(model.neck, maps))
    heads = {name: getattr(model, name, None) for name in ('rpn_head', 'bbox_head')}
    for name, head in heads.items():
        if isinstance(head, nn.Module):
            wrap(name, functools.partial(head, maps))
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        for name, regions in (('bbox_head', box_regions), ('mask_head', mask_regions)):
            _run_roi(roi_head, name, maps, regions, wrap)
    elif heads['bbox_head'] is None:
        raise UserError(
            f'{type(model).__name__} has neither a dense head nor RoI heads; only '
            'detectors of these two kinds are counted.',
            code='unsupported-model',
        )


def _run_roi(roi_head: Any, name: str, maps: Any, regions: int, wrap: Wrap) -> None:
    heads = modules_of(getattr(roi_head, name, None))
    if not heads:
        return
    extractor = getattr(roi_head, name.replace('head', 'roi_extractor'), None)
    if extractor is None:  # a mask head may share the box head's
        extractor = roi_head.bbox_roi_extractor
    extractors = modules_of(extractor)
    if len(extractors) == 1:
        extractors *= len(heads)
    for head, own in zip(heads, extractors, strict=True):
        side = own.roi_layers[0].output_size
        size = (side, side) if isinstance(side, int) else tuple(side)
        features: Tensor = maps[0].new_zeros(regions, own.out_channels, *size)
        if getattr(roi_head, 'with_shared_head', False):
            shared = functools.partial(roi_head.shared_head, features)
            features = wrap('roi_head.shared_head', shared)
        wrap(f'roi_head.{name}', functools.partial(head, features))


def modules_of(part: Any) -> list[Any]:
    """Return the modules of a cascade, or the only one; none for None."""
    if part is None:
        return []
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def is_attention(layer: nn.Module) -> bool:
    """Tell whether the layer is attention, whose cost is also counted by itself."""
    return isinstance(layer, Gate) or type(layer).__name__ in ADDING_LAYERS


def part_of(name: str) -> str:
    """Return the part that a parameter or layer of a detector belongs to."""
    words = name.split('.')
    if words[0] == 'backbone':
        return words[1] if words[1].startswith('layer') else 'stem'
    if words[0] == 'roi_head':
        return '.'.join(words[:2])
    return words[0]


class Shares:
    """Runs a detector and divides a meter's total among its parts.

    A lean backbone runs layers by themselves while hooks are on them. With ``lean``,
    its stem (the rest of the backbone) gets no hooks, and of its gates only the factors
    are measured.
    """

    def __init__(self, model: Any, meter: Meter, lean: bool = False) -> None:
        self.by_part: dict[str, int] = {}  # by :func:`part_of`
        self.gates = 0  # of the attention layers, which the parts include
        self._model, self._meter, self._lean = model, meter, lean
        self._before: dict[nn.Module, int] = {}
        self._names = {
            stage: name
            for name, stage in model.backbone.named_children()
            if part_of(f'backbone.{name}') != 'stem'
        }

    def run(
        self, shape: tuple[int, int], images: int, box_regions: int, mask_regions: int
    ) -> None:
        """Run the parts; arguments as for :func:`run_parts`."""
        gates: list[Any] = [m for m in self._model.modules() if is_attention(m)]
        lean_gates: list[Any] = [
            m for m in gates if self._lean and isinstance(m, ChannelGate)
        ]
        others = [m for m in gates if m not in lean_gates]
        hooks = []
        for module in (*self._names, *others):
            hooks.append(module.register_forward_pre_hook(self._enter))
            hooks.append(module.register_forward_hook(self._leave))
        for gate in lean_gates:
            gate.factors = functools.partial(self._run_factors, gate.factors)
        try:
            run_parts(
                self._model, shape, images, box_regions, mask_regions, self._run_part
            )
        finally:
            for hook in hooks:
                hook.remove()
            for gate in lean_gates:
                del gate.factors

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._before[module] = self._meter()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        amount = self._meter() - self._before.pop(module)
        if is_attention(module):
            self.gates += amount
        else:
            self._add(part_of(f'backbone.{self._names[module]}'), amount)

    def _run_factors(self, factors: Callable[[Tensor], Any], pooled: Tensor) -> Any:
        start = self._meter()
        result = factors(pooled)
        self.gates += self._meter() - start
        return result

    def _run_part(self, name: str, run: Callable[[], Any]) -> Any:
        start, known = self._meter(), sum(self.by_part.values())
        output = run()
        # What the backbone does outside of its layers counts as its stem.
        rest = self._meter() - start - (sum(self.by_part.values()) - known)
        self._add('stem' if name == 'backbone' else name, rest)
        return output

    def _add(self, name: str, amount: int) -> None:
        self.by_part[name] = self.by_part.get(name, 0) + amount


@dataclass
class PartCost:
    """Cost of one part."""

    params: int = 0
    trained: int = 0  # parameters with a gradient
    macs: int = 0  # multiply-adds of one image at inference
    saved_bytes: int = 0  # kept for backward by a training step, all images together


@dataclass
class ExactCost:
    """Cost of a detector.

    The parts are stem, layer1 and so on of the backbone, neck, and heads. A backbone
    without layers of such names is one part, 'backbone'.
    """

    parts: dict[str, PartCost]
    gates: PartCost  # attention layers, which the parts include
    images: int  # in the training step
    peak_bytes: int  # largest activations alive at once at inference of one image
    box_regions: tuple[int, int]  # of the box head at inference, and in training
    mask_regions: tuple[int, int]  # of the mask head
    not_run: tuple[str, ...] = ()  # no backbone, neck or usual head: not counted

    @property
    def total(self) -> PartCost:
        """Sum of the parts."""
        return PartCost(*map(sum, zip(*map(astuple, self.parts.values()), strict=True)))


def exact_cost(model: Any, cfg: Any, shape: tuple[int, int]) -> ExactCost:
    """Count a detector on the meta device.

    Its config has the numbers of images per step and of regions; ``shape`` is the
    height and width of the input in pixels.
    """
    images = int((cfg.get('train_dataloader') or {}).get('batch_size') or 1)
    boxes, masks = _regions(cfg.model, images)
    cost = ExactCost({}, PartCost(), images, 0, boxes, masks)
    _count_parameters(model, cost)
    with reported_failures(cfg.filename):
        model.eval()
        with torch.no_grad():
            _count_macs(model, shape, cost)
            cost.peak_bytes = peak_bytes(
                lambda: run_parts(model, shape, 1, boxes[0], masks[0])
            )
        model.train()
        _count_saved(model, shape, cost)
    if not any(name.startswith('layer') for name in cost.parts):
        cost.parts = {
            'backbone' if name == 'stem' else name: part
            for name, part in cost.parts.items()
        }
    return cost


@contextlib.contextmanager
def reported_failures(name: str) -> Iterator[None]:
    """Turn the errors of a layer that cannot run here into UserError."""
    try:
        yield
    except ValueError as error:  # a map too small for a layer
        raise UserError(f'{name}: {error}', code='option-invalid') from error
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise UserError(
            f'{name}: a layer does not run without values, which the count needs: '
            f'{error}',
            code='unsupported-model',
        ) from error


def _regions(model: Any, images: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (inference, training) numbers of regions of box and mask head."""
    test = (model.get('test_cfg') or {}).get('rcnn') or {}
    rpn = (model.get('test_cfg') or {}).get('rpn') or {}
    train = (model.get('train_cfg') or {}).get('rcnn') or {}
    first = train[0] if isinstance(train, list) else train
    sampler = first.get('sampler') or {}
    sampled = int(sampler.get('num', 512))
    positive = int(sampled * sampler.get('pos_fraction', 0.25))
    boxes = (int(rpn.get('max_per_img', 1000)), sampled * images)
    return boxes, (int(test.get('max_per_img', 100)), positive * images)


def _count_parameters(model: nn.Module, cost: ExactCost) -> None:
    counted = [
        (cost.parts.setdefault(part_of(name), PartCost()), parameter)
        for name, parameter in model.named_parameters()
    ]
    for gate in filter(is_attention, model.modules()):
        counted += [(cost.gates, parameter) for parameter in gate.parameters()]
    for part, parameter in counted:
        part.params += parameter.numel()
        part.trained += parameter.numel() if parameter.requires_grad else 0


def _count_macs(model: Any, shape: tuple[int, int], cost: ExactCost) -> None:
    with FlopCounterMode(display=False) as counter:
        shares = Shares(model, counter.get_total_flops)
        shares.run(shape, 1, cost.box_regions[0], cost.mask_regions[0])
    for name, flops in shares.by_part.items():
        cost.parts.setdefault(name, PartCost()).macs = flops // 2
    cost.gates.macs = shares.gates // 2
    cost.not_run = tuple(name for name in cost.parts if name not in shares.by_part)


def _count_saved(model: Any, shape: tuple[int, int], cost: ExactCost) -> None:
    with SavedBytes(model) as saved:
        lean = getattr(model.backbone, 'memory', None) == 'lean'
        shares = Shares(model, lambda: saved.total, lean)
        shares.run(shape, cost.images, cost.box_regions[1], cost.mask_regions[1])
    for name, amount in shares.by_part.items():
        cost.parts.setdefault(name, PartCost()).saved_bytes = amount
    cost.gates.saved_bytes = shares.gates


class SavedBytes:
    """Counts the bytes that autograd keeps for backward while it is active.

    A storage counts once, for the first operation that keeps it; the model's parameters
    and buffers do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        own = (*model.parameters(), *model.buffers())
        # The storages are held, so that no later one takes the address of an earlier.
        storages = (tensor.untyped_storage() for tensor in own)
        self._seen = {storage._cdata: storage for storage in storages}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda x: x)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        self._seen.clear()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            self.total += storage.nbytes()
        # Without its graph: a result that its own node keeps would never be freed.
        return tensor.detach()


def peak_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes of new tensors alive at once while ``run`` runs."""
    with LiveBytes() as live:
        run()
    return int(live.highest)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.highest: int = 0
        self.now: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage(), given)
        self.highest = max(self.highest, self.now)
        return output

    def _follow(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        address = storage._cdata
        if address in given or address in self._known:
            return  # a view, or written in place
        size = storage.nbytes()
        self._known.add(address)
        self.now += size
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size
