"""Networks of timm, built without weights and taken apart into layers.

timm is optional, and imported when a network is built.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmcv.cnn import build_plugin_layer
from torch import nn

from eca_mmdet.models.backbones.plugins import check_layer
from eca_mmdet.utils.errors import MissingPackageError

_OURS = ('pretrained', 'checkpoint_path', 'num_classes', 'features_only', 'out_indices')


def _timm() -> Any:
    """Import timm, which is optional.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module('timm')
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f'TimmBackbone needs timm, and {error.name} is not installed: '
            "pip install 'eca-mmdet[timm]', or pip install timm"
        ) from error


def create_network(
    model_name: str, model_args: dict[str, Any], attention: Mapping[str, Any] | None
) -> tuple[nn.Module, list[str]]:
    """Build a network without weights; also return the names of its attention layers.

    Args:
        model_name: timm's.
        model_args: of the network.
        attention: a plugin layer for the end of every residual branch, or None.

    Raises:
        MissingPackageError: timm is not installed.
        ValueError: an unknown name, arguments that are not the network's, or no place
            for attention.
    """
    timm = _timm()
    reserved = _OURS if attention is None else (*_OURS, 'block_args')
    _check_arguments(timm, model_name, model_args, reserved)
    built: list[nn.Module] = []
    if attention is not None:
        check_layer(attention)
        block_args = dict(attn_layer=_builder(attention, built))
        model_args = {**model_args, 'block_args': block_args}
    try:
        network = timm.create_model(model_name, num_classes=0, **model_args)
    except (TypeError, AssertionError) as error:
        if attention is None or not re.search('block_args|attn_layer', str(error)):
            raise
        raise ValueError(_no_place(model_name)) from error
    gates = [name for name, layer in network.named_modules() if _is_in(layer, built)]
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
        close = difflib.get_close_matches(str(model_name), timm.list_models(), 3, 0.5)
        advice = f' Did you mean {", ".join(close)}?' if close else ''
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


def _builder(
    attention: Mapping[str, Any], built: list[nn.Module]
) -> Callable[..., nn.Module]:
    """Return what timm calls with a block's channels; it notes down its results."""

    def build(channels: int, **_: Any) -> nn.Module:  # timm may add device and dtype
        layer = build_plugin_layer(dict(attention), in_channels=channels)[1]
        built.append(layer)
        return layer  # type: ignore[no-any-return]

    return build


def _is_in(module: nn.Module, modules: list[nn.Module]) -> bool:
    return any(module is other for other in modules)


def read_levels(network: Any, model_name: str) -> list[dict[str, Any]]:
    """Return timm's record of the feature levels: num_chs, reduction, module.

    Args:
        network: from :func:`create_network`.
        model_name: for the error message.

    Raises:
        ValueError: it has none, or the network gives no plain maps.
    """
    info = getattr(network, 'feature_info', None) or []
    own = [*network._parameters, *network._buffers]  # position embeddings, tokens
    channels_last = getattr(network, 'output_fmt', 'NCHW') != 'NCHW'
    if not info or own or channels_last:
        raise ValueError(_no_row(model_name))
    return list(info)


def layers_in_a_row(
    network: nn.Module, taps: Sequence[str], model_name: str
) -> Iterator[str]:
    """Yield the names of the layers in the order they run, each level among them.

    timm defines a network's children in the order of use. A sequence of layers with a
    level inside is taken apart.

    Args:
        network: from :func:`create_network`.
        taps: names of the layers that give the levels.
        model_name: for the error message.

    Raises:
        ValueError: a level is not at the end of such a layer.
    """
    found = set()
    for name, child in network.named_children():
        split = isinstance(child, nn.Sequential) and has_in(name, taps)
        names = [f'{name}.{inner}' for inner in child._modules] if split else [name]
        found.update(names)
        yield from names
    if not found.issuperset(taps):
        raise ValueError(_no_row(model_name))


def _no_row(model_name: str) -> str:
    return (
        f'TimmBackbone runs the layers of a convolutional network one after the other; '
        f'{model_name!r} is of another kind. Use a CNN such as resnet50, densenet121 '
        'or convnext_tiny.'
    )


def is_in(name: str, modules: Iterable[str]) -> bool:
    """Tell whether a module is one of some, or inside of one."""
    return any(f'{name}.'.startswith(f'{other}.') for other in modules)


def has_in(name: str, modules: Iterable[str]) -> bool:
    """Tell whether a module has one of some inside of it."""
    return any(other.startswith(f'{name}.') for other in modules)


def classifier_names(network: Any) -> tuple[str, ...]:
    """Return the modules that give the classes, as timm's files name them."""
    names = (getattr(network, 'default_cfg', None) or {}).get('classifier') or ()
    return (names,) if isinstance(names, str) else tuple(names)
