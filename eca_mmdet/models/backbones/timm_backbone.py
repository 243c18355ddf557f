"""Any convolutional network of timm as a backbone.

timm is optional, and imported when a backbone is built. State-dict keys are those of
timm's files (``layer1.0.conv1.weight``, ``features.denseblock1...``), without the
classifier.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmcv.cnn import build_plugin_layer
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from eca_mmdet.models.attention.gate import is_whole
from eca_mmdet.models.initialization import FileNames, FreezableBackbone
from eca_mmdet.models.plugins import check_layer
from eca_mmdet.utils.errors import MissingPackageError
from eca_mmdet.utils.text import suggestion

_AUXILIARY = ('AuxLogits',)  # of Inception v3, in some files


@MODELS.register_module()
class TimmBackbone(FreezableBackbone):
    """A convolutional network of timm that gives feature maps to a detector.

    The network's layers run one after the other up to the last level that is asked
    for; what comes after it is not built in. Values are those of timm's
    ``features_only=True``.

    Args:
        model_name: timm's, e.g. 'resnext101_32x4d'.
        out_indices: timm's feature levels, from the front or, if negative, from the
            end. The last four have strides 4, 8, 16 and 32 in most networks.
        frozen_stages: -1 trains all. 0 freezes the stem: every layer up to the last
            level of stride 2, or, in networks without one, the layers before the one
            that gives the first level. k freezes every layer up to and including the
            k-th level of stride 4 or more, as in mmdet's ``ResNet``. Frozen layers are
            in evaluation mode.
        norm_eval: keep every batch norm in evaluation mode.
        attention: a plugin layer, e.g. ``dict(type='ECALayer', kernel_size=3)``, put
            at the end of every residual branch, before the sum. For the networks made
            of timm's ``BasicBlock`` and ``Bottleneck`` (ResNet, ResNeXt, their -D and
            wide variants); it is called ``se`` there, and replaces what timm has in
            that place.
        padding: pixels of zeros to put around the input of a layer, by its name. For
            networks without padding (Inception), whose maps are otherwise smaller than
            the image over the stride and lie beside the anchors and RoIs.
        model_args: further arguments of the network, as ``timm.create_model`` takes
            them.
        init_cfg: ``dict(type='ECAPretrained', checkpoint='hf://timm/...')``; weights
            are never loaded otherwise.

    Attributes:
        out_channels: channels of each map.
        strides: stride of each map, in pixels.

    Shape:
        (N, 3, H, W) to one map (N, out_channels[i], H / strides[i], W / strides[i]) for
        each level.

    Raises:
        MissingPackageError: timm is not installed.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (-4, -3, -2, -1),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        attention: Mapping[str, Any] | None = None,
        padding: Mapping[str, int] | None = None,
        model_args: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        network, gates = _create_network(model_name, dict(model_args or {}), attention)
        info = _levels(network, model_name)
        taps = [level['module'] for level in info]
        steps = _layers_in_order(network, taps, model_name)
        chosen = _chosen(out_indices, len(info), model_name)
        end = steps.index(taps[chosen[-1]]) + 1
        self.out_indices = tuple(chosen)
        self.out_channels = [info[index]['num_chs'] for index in chosen]
        self.strides = [info[index]['reduction'] for index in chosen]
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self._steps = steps[:end]
        self._taps = {taps[index] for index in chosen}
        self.padding = _checked_padding(padding, self._steps, model_name)
        behind = steps[steps.index(taps[-1]) + 1 :]
        self.file_names = FileNames(
            'timm',
            classifier=_classifier_names(network),
            heads=(*behind, *_AUXILIARY),
            left_out=tuple(name for name in steps[end:] if name not in behind),
            gates=tuple(name for name in gates if _is_in(name, self._steps)),
        )
        self._adopt(network)
        self._frozen_steps = _frozen(frozen_stages, info, self._steps)
        self.freeze()

    def _adopt(self, network: nn.Module) -> None:
        """Make the layers that run this module's own, under timm's names."""
        for name, child in network.named_children():
            if name in self._steps:
                self.add_module(name, child)
            elif _has_in(name, self._steps):
                for inner in list(child._modules):  # `del child[i]` would renumber
                    if f'{name}.{inner}' not in self._steps:
                        delattr(child, inner)
                self.add_module(name, child)

    def freeze(self) -> None:
        """Freeze the layers that ``frozen_stages`` names."""
        for name in self._frozen_steps:
            self.get_submodule(name).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to one map for each of ``out_indices``."""
        outputs = []
        for name in self._steps:
            if name in self.padding:
                x = functional.pad(x, [self.padding[name]] * 4)
            x = self.get_submodule(name)(x)
            if name in self._taps:
                outputs.append(x)
        return tuple(outputs)


def _chosen(indices: Sequence[int], count: int, model_name: str) -> list[int]:
    """Return the levels in the order they are computed."""
    listed = isinstance(indices, Sequence) and all(map(is_whole, indices))
    given = list(indices) if listed else []
    levels = sorted({index + count if index < 0 else index for index in given})
    if not levels or len(levels) < len(given) or levels[0] < 0 or levels[-1] >= count:
        raise ValueError(
            f'out_indices must be different levels of 0 to {count - 1}, the levels of '
            f'{model_name!r}, or negative from the end; got {indices!r}.'
        )
    return levels


def _checked_padding(
    padding: Mapping[str, int] | None, steps: list[str], model_name: str
) -> dict[str, int]:
    padding = {} if padding is None else padding
    sound = isinstance(padding, Mapping) and all(
        is_whole(pixels) and pixels >= 0 for pixels in padding.values()
    )
    if not sound:
        raise ValueError(
            f'padding is a dict of pixels, 0 or more, by layer; got {padding!r}.'
        )
    unknown = [name for name in padding if name not in steps]
    if unknown:
        raise ValueError(
            f'padding names layers that {model_name!r} does not run: '
            f'{", ".join(unknown)}. It runs {", ".join(steps)}.'
        )
    return dict(padding)


def _frozen(
    frozen_stages: int, info: list[dict[str, Any]], steps: list[str]
) -> list[str]:
    """Return the layers that ``frozen_stages`` names."""
    tapped = [level for level in info if level['module'] in steps]
    stem = [level['module'] for level in tapped if level['reduction'] < 4]
    stages = [level['module'] for level in tapped if level['reduction'] >= 4]
    if not is_whole(frozen_stages) or not -1 <= frozen_stages <= len(stages):
        raise ValueError(
            f'frozen_stages must be -1 (none), 0 (the stem) or up to {len(stages)}, '
            f'the last stage that is used; got {frozen_stages!r}.'
        )
    if frozen_stages < 0:
        return []
    if frozen_stages:
        return steps[: steps.index(stages[frozen_stages - 1]) + 1]
    return steps[: steps.index(stem[-1]) + 1 if stem else steps.index(stages[0])]


_OURS = ('pretrained', 'checkpoint_path', 'num_classes', 'features_only', 'out_indices')


def _create_network(
    model_name: str, model_args: dict[str, Any], attention: Mapping[str, Any] | None
) -> tuple[nn.Module, list[str]]:
    """Build a network without weights; return it and its attention layers' names."""
    try:
        timm: Any = importlib.import_module('timm')
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f'TimmBackbone needs timm, and {error.name} is not installed: '
            "pip install 'eca-mmdet[timm]', or pip install timm"
        ) from error
    reserved = _OURS if attention is None else (*_OURS, 'block_args')
    _check_arguments(timm, model_name, model_args, reserved)
    built: list[nn.Module] = []

    def build(channels: int, **_: Any) -> nn.Module:  # timm may add device and dtype
        layer = build_plugin_layer(dict(attention or {}), in_channels=channels)[1]
        built.append(layer)
        return layer  # type: ignore[no-any-return]

    if attention is not None:
        check_layer(attention)
        model_args = {**model_args, 'block_args': dict(attn_layer=build)}
    try:
        network = timm.create_model(model_name, num_classes=0, **model_args)
    except (TypeError, AssertionError) as error:
        if attention is None or not re.search('block_args|attn_layer', str(error)):
            raise
        raise ValueError(_no_place(model_name)) from error
    gates = [n for n, m in network.named_modules() if any(m is g for g in built)]
    blocks = {type(network.get_submodule(name.rpartition('.')[0])) for name in gates}
    known = {timm.models.resnet.BasicBlock, timm.models.resnet.Bottleneck}
    if attention is not None and not (blocks and blocks <= known):
        raise ValueError(_no_place(model_name))
    return network, gates


def _no_place(model_name: str) -> str:
    return (
        'attention goes to the end of residual branches, and timm offers no such place '
        f"in {model_name!r}: only networks of its ResNet's BasicBlock and Bottleneck "
        'have it. Use attention=None, or a ResNet or ResNeXt.'
    )


def _check_arguments(
    timm: Any, model_name: str, model_args: dict[str, Any], reserved: Sequence[str]
) -> None:
    if not isinstance(model_name, str) or not timm.is_model(model_name):
        advice = suggestion(str(model_name), timm.list_models())
        raise ValueError(
            f'model_name must be a network of timm {timm.__version__}; got '
            f"{model_name!r}.{advice} All names: timm.list_models('*resnet*')"
        )
    given = [name for name in reserved if name in model_args]
    if given:
        raise ValueError(
            f'model_args must not have {", ".join(given)}: give weights as init_cfg, '
            'feature levels as out_indices, a layer of the blocks as attention.'
        )


def _levels(network: Any, model_name: str) -> list[dict[str, Any]]:
    """Return timm's record of the feature levels: num_chs, reduction, module."""
    info = getattr(network, 'feature_info', None) or []
    own = [*network._parameters, *network._buffers]  # position embeddings, tokens
    channels_last = getattr(network, 'output_fmt', 'NCHW') != 'NCHW'
    if not info or own or channels_last:
        raise ValueError(_not_sequential(model_name))
    return list(info)


def _layers_in_order(
    network: nn.Module, taps: Sequence[str], model_name: str
) -> list[str]:
    """Return the names of the layers in the order they run, each level among them.

    timm defines a network's children in the order of use. A sequence of layers with a
    level inside is taken apart.
    """
    names: list[str] = []
    for name, child in network.named_children():
        split = isinstance(child, nn.Sequential) and _has_in(name, taps)
        names += [f'{name}.{inner}' for inner in child._modules] if split else [name]
    if not set(names).issuperset(taps):
        raise ValueError(_not_sequential(model_name))
    return names


def _not_sequential(model_name: str) -> str:
    return (
        f'TimmBackbone runs the layers of a convolutional network one after the other; '
        f'{model_name!r} is of another kind. Use a CNN such as resnet50, densenet121 '
        'or convnext_tiny.'
    )


def _is_in(name: str, modules: Iterable[str]) -> bool:
    """Tell whether a module is one of several, or inside one of them."""
    return any(f'{name}.'.startswith(f'{other}.') for other in modules)


def _has_in(name: str, modules: Iterable[str]) -> bool:
    """Tell whether one of several modules is inside this one."""
    return any(other.startswith(f'{name}.') for other in modules)


def _classifier_names(network: Any) -> tuple[str, ...]:
    """Return the modules that give the classes, as timm's files name them."""
    names = (getattr(network, 'default_cfg', None) or {}).get('classifier') or ()
    return (names,) if isinstance(names, str) else tuple(names)
