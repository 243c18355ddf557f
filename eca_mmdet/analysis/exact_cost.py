"""Exact cost of a detector, part by part.

Multiply-adds are those of convolutions and matrix products, as PyTorch's own
``FlopCounterMode`` counts them; element-wise work is not included.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from eca_mmdet.models.attention import ChannelGate
from eca_mmdet.models.attention.gate import is_attention
from eca_mmdet.utils.errors import UserError


def run_parts(
    model: Any,
    shape: tuple[int, int],
    images: int,
    box_regions: int,
    mask_regions: int,
) -> None:
    """Run backbone, neck and heads on empty input; not the steps between them.

    The detector has a dense head, or an RPN and RoI heads; the meta device needs no
    memory. ``shape`` is the height and width in pixels; the regions of the box head
    (each one of a cascade) and of the mask head are those of all images.
    """
    image = next(model.parameters()).new_zeros(images, 3, *shape)  # alive until the end
    maps: Any = model.backbone(image)
    if getattr(model, 'with_neck', False):
        maps = model.neck(maps)
    for head in (getattr(model, 'rpn_head', None), getattr(model, 'bbox_head', None)):
        if isinstance(head, nn.Module):
            head(maps)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        _run_roi_heads(roi_head, 'bbox', maps, box_regions)
        _run_roi_heads(roi_head, 'mask', maps, mask_regions)
    elif getattr(model, 'bbox_head', None) is None:
        raise UserError(
            f'{type(model).__name__} has neither a dense head nor RoI heads; only '
            'detectors of these two kinds are counted.',
            code='unsupported-model',
        )


def _run_roi_heads(roi_head: Any, kind: str, maps: Any, regions: int) -> None:
    heads = modules_of(getattr(roi_head, f'{kind}_head', None))
    extractor = getattr(roi_head, f'{kind}_roi_extractor', None)
    # A mask head may share the box head's; the heads of a cascade may share one.
    extractors = modules_of(extractor or roi_head.bbox_roi_extractor)
    for index, head in enumerate(heads):
        own = extractors[index if len(extractors) > 1 else 0]
        side = own.roi_layers[0].output_size
        size = (side, side) if isinstance(side, int) else tuple(side)
        features: Tensor = maps[0].new_zeros(regions, own.out_channels, *size)
        if getattr(roi_head, 'with_shared_head', False):
            features = roi_head.shared_head(features)
        head(features)


def modules_of(part: Any) -> list[Any]:
    """Return the modules of a cascade, or the only one; none for None."""
    if part is None:
        return []
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def part_of(name: str) -> str:
    """Return the part that a parameter or layer of a detector belongs to."""
    first, second, *_ = *name.split('.'), ''
    if first == 'backbone':
        return second if second.startswith('layer') else 'stem'
    return f'{first}.{second}' if first == 'roi_head' else first


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
    parts: defaultdict[str, PartCost] = defaultdict(PartCost)
    gates = PartCost()
    counted = [(parts[part_of(n)], p) for n, p in model.named_parameters()]
    for layer in filter(is_attention, model.modules()):
        counted += [(gates, parameter) for parameter in layer.parameters()]
    for part, parameter in counted:
        part.params += parameter.numel()
        part.trained += parameter.numel() if parameter.requires_grad else 0
    with reported_failures(cfg.filename):
        model.eval()
        with torch.no_grad():
            # Its hooks make a lean backbone run layer by layer; the peak has none.
            flops = FlopCounterMode(display=False)
            with flops, Shares(model, flops.get_total_flops) as shares:
                run_parts(model, shape, 1, boxes[0], masks[0])
            with Meter() as meter:
                run_parts(model, shape, 1, boxes[0], masks[0])
        model.train()
        lean = getattr(model.backbone, 'memory', None) == 'lean'
        with (
            SavedBytes(model) as saved,
            Shares(model, lambda: saved.total, lean) as kept,
        ):
            run_parts(model, shape, images, boxes[1], masks[1])
    not_run = tuple(name for name in parts if name not in shares.by_part)
    for name, amount in shares.by_part.items():
        parts[name].macs = amount // 2
    for name, amount in kept.by_part.items():
        parts[name].saved_bytes = amount
    gates.macs, gates.saved_bytes = shares.gates // 2, kept.gates
    named = dict(parts)
    if not any(name.startswith('layer') for name in parts):
        named = {'backbone' if n == 'stem' else n: part for n, part in parts.items()}
    return ExactCost(named, gates, images, meter.peak_bytes, boxes, masks, not_run)


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


class Shares:
    """Divides the growth of a meter among the parts of a detector that runs.

    A lean backbone runs layers by themselves while hooks are on them. With ``lean``,
    only the factors of its gates are measured, without hooks.
    """

    def __init__(
        self, model: Any, meter: Callable[[], int], lean: bool = False
    ) -> None:
        self.by_part: Counter[str] = Counter()  # by :func:`part_of`
        self.gates = 0  # of the attention layers, which the parts include
        self._model, self._meter, self._lean = model, meter, lean
        self._running: list[str] = []  # parts, the innermost last
        self._last = 0  # the meter when the running part last changed
        self._before: dict[nn.Module, int] = {}  # the meter when a gate was called
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> Shares:
        for name, module in self._model.named_modules():
            if self._lean and isinstance(module, ChannelGate):
                run = functools.partial(self._run_factors, module.factors)
                setattr(module, 'factors', run)  # noqa: B010
                self._restore.callback(delattr, module, 'factors')
            elif is_attention(module):
                self._hook(module, self._enter_gate, self._leave_gate)
            # In the backbone only its stages: the layers of a lean block have no hooks.
            stage = name.count('.') == 1 and part_of(name) != 'stem'
            if name and (stage or not name.startswith('backbone.')):
                enter = functools.partial(self._enter_part, part_of(name))
                self._hook(module, enter, self._leave_part)
        return self

    def __exit__(self, *error: Any) -> None:
        self._restore.close()

    def _hook(self, module: nn.Module, enter: Any, leave: Any) -> None:
        self._restore.callback(module.register_forward_pre_hook(enter).remove)
        self._restore.callback(module.register_forward_hook(leave).remove)

    def _enter_part(self, part: str, module: nn.Module, inputs: Any) -> None:
        self._settle()
        self._running.append(part)

    def _leave_part(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._settle()
        self._running.pop()

    def _settle(self) -> None:
        """Credit the innermost part with what was metered since the last call."""
        now = self._meter()
        if self._running:
            self.by_part[self._running[-1]] += now - self._last
        self._last = now

    def _enter_gate(self, gate: nn.Module, inputs: Any) -> None:
        self._before[gate] = self._meter()

    def _leave_gate(self, gate: nn.Module, inputs: Any, output: Any) -> None:
        self.gates += self._meter() - self._before.pop(gate)

    def _run_factors(self, factors: Callable[[Tensor], Any], pooled: Tensor) -> Any:
        start = self._meter()
        result = factors(pooled)
        self.gates += self._meter() - start
        return result


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures what operations need beside multiply-adds, while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements: int = 0  # of the largest tensor that each elementwise one uses
        self.peak_bytes: int = 0  # most bytes of new tensors alive at once
        self.alive_bytes: int = 0  # of new tensors that are alive now
        self._alive: set[int] = set()  # storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        read, written = (
            [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
            for values in ((args, kwargs), output)
        )
        if func.overloadpacket not in flop_registry and not func.is_view:
            self.elements += max((t.numel() for t in (*read, *written)), default=0)
        known = {tensor.untyped_storage()._cdata for tensor in read}
        for tensor in written:
            storage = tensor.untyped_storage()
            address, size = storage._cdata, storage.nbytes()
            if address in known or address in self._alive:
                continue  # a view, or written in place
            self._alive.add(address)
            self.alive_bytes += size
            weakref.finalize(storage, self._free, address, size)
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes)
        return output

    def _free(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self.alive_bytes -= size


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
