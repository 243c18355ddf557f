"""Any convolutional network of timm as a backbone.

timm is optional, and imported when a backbone is built. State-dict keys are those of
timm's files (``layer1.0.conv1.weight``, ``features.denseblock1...``), without the
classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional

from eca_mmdet.compat import batch_norm_base
from eca_mmdet.models.attention.gate import is_whole
from eca_mmdet.models.backbones.init_guard import InitGuard
from eca_mmdet.models.backbones.timm_network import (
    classifier_names,
    create_network,
    has_in,
    is_in,
    layers_in_a_row,
    read_levels,
)
from eca_mmdet.models.file_names import FileNames

_AUXILIARY = ('AuxLogits',)  # of Inception v3, in some files


@MODELS.register_module()
class TimmBackbone(InitGuard, BaseModule):  # type: ignore[misc]
    """A convolutional network of timm that gives feature maps to a detector.

    The network's layers run one after the other up to the last level that is asked
    for; what comes after it is not built in. Values are those of timm's
    ``features_only=True``.

    Args:
        model_name: timm's, such as 'resnext101_32x4d'.
        out_indices: of timm's feature levels, from the front or, if negative, from the
            end. The last four have strides 4, 8, 16 and 32 in most networks.
        frozen_stages: -1 trains all. 0 freezes the stem: every layer up to the last
            level of stride 2, or, in networks without one, the layers before the one
            that gives the first level. k freezes every layer up to and including the
            k-th level of stride 4 or more, as in mmdet's ``ResNet``. Frozen layers are
            in evaluation mode.
        norm_eval: keep every batch norm in evaluation mode.
        attention: a plugin layer such as ``dict(type='ECALayer', kernel_size=3)``, put
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
        out_channels: of each map.
        strides: of each map, in pixels.

    Shape:
        (N, 3, H, W) to one map (N, out_channels[i], H / strides[i], W / strides[i]) for
        each level.

    Raises:
        MissingPackageError: timm is not installed.
        ValueError: an unknown name; a level, stage or layer the network does not have;
            attention for a network without residual branches to put it in; a network
            whose layers do not run one after the other.
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
        network, gates = create_network(model_name, dict(model_args or {}), attention)
        info = read_levels(network, model_name)
        taps = [level['module'] for level in info]
        steps = list(layers_in_a_row(network, taps, model_name))
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
            classifier=classifier_names(network),
            heads=(*behind, *_AUXILIARY),
            left_out=tuple(name for name in steps[end:] if name not in behind),
            gates=tuple(name for name in gates if is_in(name, self._steps)),
        )
        self._adopt(network)
        self._frozen_steps = _frozen(frozen_stages, info, self._steps)
        self._freeze()

    def _adopt(self, network: nn.Module) -> None:
        """Make the layers that run this module's own, under timm's names."""
        for name, child in network.named_children():
            if name in self._steps:
                self.add_module(name, child)
            elif has_in(name, self._steps):
                for inner in list(child._modules):  # `del child[i]` would renumber
                    if f'{name}.{inner}' not in self._steps:
                        delattr(child, inner)
                self.add_module(name, child)

    def _freeze(self) -> None:
        for name in self._frozen_steps:
            self.get_submodule(name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Switch to training or evaluation; frozen layers and norms stay as they are.

        Args:
            mode: training or not.
        """
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, batch_norm_base()):
                    module.eval()
        return self

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
    """Return the levels in the order they are computed.

    Raises:
        ValueError: none, one twice, or one that the network does not have.
    """
    listed = isinstance(indices, Sequence) and all(map(is_whole, indices))
    given = list(indices) if listed else []
    found = sorted({index + count if index < 0 else index for index in given})
    if not found or len(found) < len(given) or found[0] < 0 or found[-1] >= count:
        raise ValueError(
            f'out_indices must be different levels of 0 to {count - 1}, the levels of '
            f'{model_name!r}, or negative from the end; got {indices!r}.'
        )
    return found


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
    """Return the layers that ``frozen_stages`` names.

    Raises:
        ValueError: a stage that is not there.
    """
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
