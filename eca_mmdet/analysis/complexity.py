"""Cost of detectors: exact, by the convention of the paper, and in milliseconds.

The paper's tables follow the rules of mmcv 1's ``flops_counter`` (itself from
sovrasov's ptflops); :func:`paper_cost` agrees with all 18 published rows:

- parameters that are trained, so without the frozen stem and first stage;
- multiply-adds of convolutions and linear layers, biases too, plus one operation per
  element of ReLU and of a pooling's input and two of a norm's; nothing else;
- transposed convolutions by the same rule as convolutions, which counts the 2x2
  stride-2 upsample of a mask head four times;
- heads on 1000 regions, mask heads on 100, 81 outputs for 80 classes as in v1.
"""

from __future__ import annotations

import functools
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from eca_mmdet.analysis.exact_cost import (
    ExactCost,
    exact_cost,
    modules_of,
    reported_failures,
    run_parts,
)
from eca_mmdet.catalog.published import published_rows
from eca_mmdet.engine.config import build_model, load_config, silence_known_warnings
from eca_mmdet.models.attention.gate import Gate
from eca_mmdet.utils.errors import UserError

PAPER_SHAPE = (1280, 800)  # width and height that the published numbers are for

BOX_REGIONS = 1000
MASK_REGIONS = 100

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.LeakyReLU)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)
_POOLINGS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)


@dataclass(frozen=True)
class ExactRow:
    """Exact cost of one detector, given by name or path."""

    config: str
    cost: ExactCost


@dataclass(frozen=True)
class PaperRow:
    """Cost of one detector by the convention of the paper's tables."""

    config: str  # name or path
    params_m: float  # trained parameters in 10^6
    gflops: float  # operations in 10^9
    published: dict[str, float] | None  # ``params_m`` and ``gflops`` of the table


@overload
def complexity(
    configs: str | Sequence[str],
    shape: tuple[int, int] = PAPER_SHAPE,
    convention: Literal['exact'] = 'exact',
    options: Sequence[str] = (),
) -> list[ExactRow]: ...


@overload
def complexity(
    configs: str | Sequence[str],
    shape: tuple[int, int] = PAPER_SHAPE,
    *,
    convention: Literal['paper'],
    options: Sequence[str] = (),
) -> list[PaperRow]: ...


def complexity(
    configs: str | Sequence[str],
    shape: tuple[int, int] = PAPER_SHAPE,
    convention: str = 'exact',
    options: Sequence[str] = (),
) -> list[ExactRow] | list[PaperRow]:
    """Count what detectors cost, without weights and data.

    Args:
        configs: names or paths; 'tables' stands for all of the paper's tables.
        shape: width and height of the input, in pixels.
        convention: 'exact', or 'paper' to count as the published tables do.
        options: overrides of config entries, each KEY=VALUE.

    Raises:
        UserError: a config is not one of a detector, or cannot be counted.

    Example:
        >>> import eca_mmdet
        >>> name = 'faster-rcnn_eca-r50_fpn_4xb2-1x_coco'
        >>> (row,) = eca_mmdet.complexity(name, convention='paper')
        >>> f'{row.params_m:.2f} {row.gflops:.2f}'
        '41.53 207.18'
    """
    if min(shape) < 32:
        raise UserError(
            f'--shape must be at least 32 32; got {shape}.', code='option-invalid'
        )
    if convention not in ('exact', 'paper'):
        raise UserError(
            f"convention must be 'exact' or 'paper'; got {convention!r}.",
            code='option-invalid',
        )
    loaded = load_configs(configs, options)
    size = (shape[1], shape[0])
    if convention == 'exact':
        return [
            ExactRow(name, exact_cost(build_model(cfg, 'meta'), cfg, size))
            for name, cfg in loaded.items()
        ]
    known = {}
    if shape == PAPER_SHAPE and not options:
        known = {
            row.config: {'params_m': row.params_m.value, 'gflops': row.gflops.value}
            for row in published_rows()
        }
    return [
        PaperRow(
            name,
            **paper_cost(build_model(cfg, 'meta'), size),
            published=known.get(name),
        )
        for name, cfg in loaded.items()
    ]


def load_configs(
    names: str | Sequence[str], options: Sequence[str] = ()
) -> dict[str, Any]:
    """Return detector configs by the names given; arguments as :func:`complexity`."""
    every: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        every += [r.config for r in published_rows()] if name == 'tables' else [name]
    configs = {}
    for name in dict.fromkeys(every):
        cfg = load_config(name, options)
        if not cfg.get('model'):
            raise UserError(
                f'{cfg.filename} is not a detector config: it has no model.',
                code='config-invalid',
            )
        configs[name] = cfg
    return configs


def operations(module: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """Return what the classic counter counts for one call of a layer."""
    if isinstance(module, nn.modules.conv._ConvNd):
        positions = output.numel() // output.shape[1]
        kernel = module.weight.numel()
        bias = 0 if module.bias is None else output.numel()
        return positions * kernel + bias
    if isinstance(module, nn.Linear):
        bias = 0 if module.bias is None else module.out_features
        return inputs.numel() * module.out_features + bias
    if isinstance(module, _NORMS):
        affine = getattr(module, 'affine', getattr(module, 'elementwise_affine', False))
        return inputs.numel() * (2 if affine else 1)
    if isinstance(module, _ACTIVATIONS):
        return output.numel()
    if isinstance(module, (*_POOLINGS, Gate)):
        # A gate pools without a layer of its own; v1's code had one.
        return inputs.numel()
    return 0


def count_operations(model: nn.Module, run: Callable[[], Any]) -> int:
    """Return the operations of all layers while ``run`` runs."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            total += operations(module, inputs[0], output)

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def paper_cost(model: Any, shape: tuple[int, int] = (800, 1280)) -> dict[str, float]:
    """Return the Params and GFLOPs columns of a detector: 10^6 and 10^9.

    The model is on the meta device; its last layers are widened to MMDetection v1's 81
    outputs, so it cannot be used for anything afterwards. ``shape`` is the height and
    width of the input in pixels.
    """
    widen_to_v1(model)
    model.eval()
    with reported_failures(type(model).__name__), torch.no_grad():
        total = count_operations(
            model, lambda: run_parts(model, shape, 1, BOX_REGIONS, MASK_REGIONS)
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {'params_m': trained / 1e6, 'gflops': total / 1e9}


def widen_to_v1(model: Any) -> None:
    """Give class-wise box and mask outputs one more class: v1 counted background."""
    roi_head = getattr(model, 'roi_head', None)
    for head in modules_of(getattr(roi_head, 'bbox_head', None)):
        if hasattr(head, 'fc_reg') and not head.reg_class_agnostic:
            outputs = head.fc_reg.out_features // head.num_classes
            head.fc_reg = nn.Linear(
                head.fc_reg.in_features, outputs * (head.num_classes + 1), device='meta'
            )
    for head in modules_of(getattr(roi_head, 'mask_head', None)):
        last = getattr(head, 'conv_logits', None)
        if last is not None and not head.class_agnostic:
            head.conv_logits = nn.Conv2d(
                last.in_channels, head.num_classes + 1, last.kernel_size, device='meta'
            )


WARM_UP = 3
ROUNDS = 10


def time_configs(
    configs: Mapping[str, Any], shape: tuple[int, int], rounds: int = ROUNDS
) -> dict[str, Any]:
    """Time detectors with random weights on the best device, in turns, on one image.

    ``shape`` is the width and height of the input in pixels.

    Returns:
        ``setting`` of the run, and ``models``: for each name the median milliseconds of
        ``backbone_ms`` and ``detector_ms``, and the ratio of each to the first model's.
        The detector's time is from the normalised image to the boxes (and masks).
    """
    from mmengine.device import get_device

    silence_known_warnings()
    image = torch.rand(1, 3, shape[1], shape[0], device=get_device())
    runs: list[Callable[[], Any]] = []
    for cfg in configs.values():
        model = build_model(cfg).to(image.device)
        model.eval()
        runs.append(functools.partial(model.backbone, image))
        runs.append(functools.partial(_detect, model, image))
    with torch.no_grad():
        times = medians(runs, image.device, rounds, WARM_UP)
    return {
        'setting': setting(image),
        'rounds': rounds,
        'models': {
            name: {
                'backbone_ms': backbone,
                'detector_ms': detector,
                'backbone_ratio': backbone / times[0],
                'detector_ratio': detector / times[1],
            }
            for name, backbone, detector in zip(
                configs, times[::2], times[1::2], strict=True
            )
        },
    }


def training_steps(backbones: Sequence[Any], shape: Sequence[int]) -> list[float]:
    """Return each backbone's median milliseconds of a training step on the CPU.

    They are timed in turns and put into training mode; ``shape`` is (N, 3, H, W).
    """
    images = torch.rand(*shape)
    for backbone in backbones:
        backbone.train()

    def step(backbone: Any) -> None:
        sum(features.sum() for features in backbone(images)).backward()

    runs = [functools.partial(step, backbone) for backbone in backbones]
    return medians(runs, images.device, ROUNDS, WARM_UP)


def _detect(model: Any, image: torch.Tensor) -> Any:
    from mmdet.structures import DetDataSample

    size = tuple(image.shape[-2:])
    sizes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    metainfo = {**dict.fromkeys(sizes, size), 'scale_factor': (1.0, 1.0)}
    return model.predict(image, [DetDataSample(metainfo=metainfo)], rescale=True)


def medians(
    runs: Sequence[Callable[[], Any]],
    device: torch.device,
    rounds: int,
    warm_up: int,
) -> list[float]:
    """Return the median milliseconds of each run, work started on the device included.

    A round measures every run once, so that all meet the same state of the machine.
    Rounds of the warm-up do not count.
    """

    def wait() -> None:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)

    times: list[list[float]] = [[] for _ in runs]
    for _ in range(warm_up + rounds):
        for run, spent in zip(runs, times, strict=True):
            wait()
            start = time.perf_counter()
            run()
            wait()
            spent.append((time.perf_counter() - start) * 1000)
    return [statistics.median(spent[warm_up:]) for spent in times]


def setting(image: torch.Tensor) -> dict[str, Any]:
    """Return what a time depends on besides the model."""
    name = platform.processor() or platform.machine()
    if image.device.type == 'cuda':
        name = torch.cuda.get_device_name(image.device)
    return {
        'device': image.device.type,
        'name': name,
        'threads': torch.get_num_threads(),
        'dtype': str(image.dtype).removeprefix('torch.'),
        'memory_format': 'contiguous',
        'torch': torch.__version__,
        'shape': list(image.shape),
    }
