"""Params and GFLOPs as the tables of the ECA-Net paper count them.

They follow the rules of mmcv 1's ``flops_counter`` (mmcv.cnn.utils, itself from
sovrasov's ptflops), and agree with all 18 published rows:

- parameters that are trained, so without the frozen stem and first stage;
- multiply-adds of convolutions and linear layers, biases too, plus one operation per
  element of ReLU and of a pooling's input and two of a norm's; nothing else;
- transposed convolutions by the same rule as convolutions, which counts the 2x2
  stride-2 upsample of a mask head four times;
- heads on 1000 regions, mask heads on 100, 81 outputs for 80 classes as in v1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet import registration
from eca_mmdet.analysis.exact_cost import modules_of, reported_failures, run_parts
from eca_mmdet.catalog.published import published
from eca_mmdet.models.attention.gate import Gate

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

CLASSES = 1000
SIDE = 224
_PLUGINS = {
    'none': None,
    'SE': {'type': 'SqueezeExcite'},
    'ECA': {'type': 'ECALayer', 'kernel_size': 3},
    'CBAM': {'type': 'CBAM'},
}
_WIDTHS = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}
MISSING = 'this package has no such network'


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
    """Return the Params and GFLOPs columns of a detector.

    Args:
        model: on the meta device; its last layers are widened to MMDetection v1's 81
            outputs, so it cannot be used for anything afterwards.
        shape: height and width of the input, in pixels.

    Returns:
        ``params_m`` in 10^6 and ``gflops`` in 10^9.
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


def backbone_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the config of a row's backbone; None if this package lacks the block."""
    attention = row['attention']
    if attention not in _PLUGINS:
        return None
    if row.get('model') == 'MobileNetV2':
        types = {'none': 'MobileNetV2', 'ECA': 'ECAMobileNetV2'}
        if attention not in types:
            return None
        return {'type': types[attention], 'out_indices': (7,)}
    plugin = _PLUGINS[attention]
    position = 'after_conv2' if row['depth'] < 50 else 'after_conv3'
    config = {'type': 'PluginResNet', 'depth': row['depth'], 'style': 'pytorch'}
    if plugin:
        config['plugins'] = [{'cfg': plugin, 'position': position}]
    return config


def classifier_cost(row: dict[str, Any]) -> dict[str, float] | None:
    """Count the classifier of a published row: backbone, pooling and linear layer.

    Returns:
        ``params`` in 2^20, and ``gflops`` by the classic counter at 3x224x224, in 2^30,
        for MobileNetV2 in 10^9; None if this package lacks the block.
    """
    from mmdet.registry import MODELS

    config = backbone_of(row)
    if config is None:
        return None
    with torch.device('meta'):
        backbone = MODELS.build(config)
    backbone.eval()
    width = 1280 if row.get('model') else _WIDTHS[row['depth']]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES, device='meta')
    )
    model = nn.ModuleList([backbone, head])
    image = torch.empty(1, 3, SIDE, SIDE, device='meta')
    with torch.no_grad():
        total = count_operations(model, lambda: head(backbone(image)[-1]))
    params = sum(parameter.numel() for parameter in model.parameters())
    unit = 1e9 if row.get('model') else 2**30
    return {'params': params / 2**20, 'gflops': total / unit}


def imagenet_costs() -> list[dict[str, Any]]:
    """Return the published rows with ``counted``, their :func:`classifier_cost`.

    ``missing`` is the reason where that is None.
    """
    registration.register()
    rows = []
    for row in published()['imagenet']['rows']:
        cost = classifier_cost(row)
        rows.append({**row, 'counted': cost, 'missing': None if cost else MISSING})
    return rows
