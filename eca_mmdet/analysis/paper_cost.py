"""Params and GFLOPs as the tables of the ECA-Net paper count them.

They are those of mmcv 1's ``flops_counter`` (mmcv.cnn.utils, itself from sovrasov's
ptflops), worked out again from its rules and held against all 18 published rows:

- parameters that are trained, so without the frozen stem and first stage;
- multiply-adds of convolutions and linear layers, biases too, plus one operation per
  element of ReLU and of a pooling's input and two of a norm's; nothing else;
- transposed convolutions by the same rule as convolutions, which counts the 2x2
  stride-2 upsample of a mask head four times over;
- heads on 1000 regions, mask heads on 100, 81 outputs for 80 classes as in v1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet import registration
from eca_mmdet.analysis.exact_cost import run_parts
from eca_mmdet.catalog.published import published
from eca_mmdet.models.attention.gate import Gate
from eca_mmdet.utils.errors import UserError

BOX_REGIONS = 1000
MASK_REGIONS = 100

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
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
    if isinstance(module, _CONVOLUTIONS):
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
            outputs, so that it is of no other use afterwards.
        shape: height and width of the input, in pixels.

    Returns:
        ``params_m`` in 10^6 and ``gflops`` in 10^9.
    """
    widen_to_v1(model)
    model.eval()
    try:
        with torch.no_grad():
            total = count_operations(
                model, lambda: run_parts(model, shape, 1, BOX_REGIONS, MASK_REGIONS)
            )
    except ValueError as error:  # a map too small for a layer
        raise UserError(
            f'{type(model).__name__}: {error}', code='option-invalid'
        ) from error
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise UserError(
            f'{type(model).__name__}: a layer does not run without values, which the '
            f'count needs: {error}',
            code='unsupported-model',
        ) from error
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return {'params_m': trained / 1e6, 'gflops': total / 1e9}


def widen_to_v1(model: Any) -> None:
    """Give class-wise box and mask outputs one more class: v1 counted background."""
    head = getattr(model, 'roi_head', None)
    for one in _each(getattr(head, 'bbox_head', None)):
        if hasattr(one, 'fc_reg') and not one.reg_class_agnostic:
            outputs = one.fc_reg.out_features // one.num_classes
            one.fc_reg = nn.Linear(
                one.fc_reg.in_features, outputs * (one.num_classes + 1), device='meta'
            )
    for one in _each(getattr(head, 'mask_head', None)):
        last = getattr(one, 'conv_logits', None)
        if last is not None and not one.class_agnostic:
            one.conv_logits = nn.Conv2d(
                last.in_channels, one.num_classes + 1, last.kernel_size, device='meta'
            )


def _each(part: Any) -> list[Any]:
    if part is None:
        return []
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def backbone_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the config of a row's backbone; None if we have no such block."""
    attention = row['attention']
    if attention not in _PLUGINS:
        return None
    if row.get('model') == 'MobileNetV2':
        kinds = {'none': {'type': 'MobileNetV2'}, 'ECA': {'type': 'ECAMobileNetV2'}}
        found = kinds.get(attention)
        return None if found is None else {**found, 'out_indices': (7,)}
    plugin = _PLUGINS[attention]
    position = 'after_conv2' if row['depth'] < 50 else 'after_conv3'
    config = {'type': 'PluginResNet', 'depth': row['depth'], 'style': 'pytorch'}
    if plugin:
        config['plugins'] = [{'cfg': plugin, 'position': position}]
    return config


def classifier_cost(row: dict[str, Any]) -> dict[str, float] | None:
    """Count the classifier of a published row: backbone, pooling and linear layer.

    Args:
        row: with attention, and depth or model.

    Returns:
        ``params`` in 2^20, all of them, and ``gflops`` by the classic counter at
        3x224x224, in 2^30, for MobileNetV2 in 10^9; None if this package lacks the
        block.
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
    params = sum(one.numel() for one in model.parameters())
    unit = 1e9 if row.get('model') else 2**30
    return {'params': params / 2**20, 'gflops': total / unit}


def imagenet_costs() -> list[dict[str, Any]]:
    """Return the published classifier rows with what is counted here.

    Returns:
        Each published row with ``counted``, as :func:`classifier_cost`, and
        ``missing``, the reason where that is None.
    """
    registration.register()
    rows = []
    for row in published()['imagenet']['rows']:
        cost = classifier_cost(row)
        rows.append({**row, 'counted': cost, 'missing': None if cost else MISSING})
    return rows
