"""The initializer that the configs use for backbone weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from eca_mmdet.weights.sources import missing_file_message


@WEIGHT_INITIALIZERS.register_module()
class ECAPretrained:
    """Load ImageNet weights into a backbone, or say why they do not fit.

    mmengine's ``Pretrained`` loads with ``strict=False`` and warns: gates of another
    kernel size, or of a file without gates, stay random. Here every backbone tensor
    must come from the file.

    Args:
        checkpoint: local path of a state dict, bare or under 'state_dict', with or
            without 'module.' before its keys. A classifier (``fc.*``) is dropped.
        new_layers: parts of names that the file need not have, for blocks that start
            as the identity ('non_local', 'context_block').

    Raises:
        FileNotFoundError: with where to get the file.
        ValueError: the file and the backbone differ; names the first tensors.
    """

    def __init__(self, checkpoint: str, new_layers: Sequence[str] = ()) -> None:
        self.checkpoint = checkpoint
        self.new_layers = tuple(new_layers)

    def __call__(self, module: nn.Module) -> None:
        """Copy the file's tensors into ``module``."""
        weights, own = self.read_fitting(module), module.state_dict()
        module.load_state_dict(weights, strict=False)
        # mmengine runs the children's own initialisation after any initializer that
        # is not called 'Pretrained'; a deformable convolution's would overwrite this.
        for child in module.modules():
            if child is not module and isinstance(child, BaseModule):
                child.is_init = True
        print_log(
            f'{len(weights.keys() & own.keys())}/{len(own)} backbone tensors from '
            f'{self.checkpoint}',
            logger='current',
            level=logging.INFO,
        )

    def read_fitting(self, module: nn.Module) -> dict[str, Tensor]:
        """Read the file and hold it against ``module``, whose values stay.

        Args:
            module: the backbone; it may be on the meta device.

        Raises:
            FileNotFoundError: with where to get the file.
            ValueError: it is no state dict, or does not fit.
        """
        weights = read_backbone(self.checkpoint)
        problems = self._compare(weights, module.state_dict())
        if problems:
            raise ValueError(
                f'{self.checkpoint} does not fit this {type(module).__name__}: '
                + '; '.join(problems)
            )
        return weights

    def _compare(self, weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
        """List every way in which the file does not fit, first examples named."""
        missing = [
            key
            for key in own
            if key not in weights
            and not key.endswith('num_batches_tracked')
            and not any(part in key for part in self.new_layers)
        ]
        unknown = [key for key in weights if key not in own]
        shapes = [
            f'{key}: file {tuple(weights[key].shape)}, model {tuple(own[key].shape)}'
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ]
        problems = []
        for title, names in (
            ('missing in the file', missing),
            ('not in the backbone', unknown),
            ('of another shape', shapes),
        ):
            if names:
                problems.append(f'{len(names)} {title}: {", ".join(names[:3])}')
        sizes = _gate_sizes(weights)
        if problems and sizes:
            problems.append(f'ECA kernel sizes in the file, by stage: {sizes}')
        return problems

    def _get_init_info(self) -> str:
        """Say for mmengine's record where the values come from."""
        return f'{type(self).__name__}: load from {self.checkpoint}'


def _gate_sizes(weights: dict[str, Tensor]) -> tuple[int, ...]:
    """Return the kernel size of each stage's first gate, for messages."""
    sizes = []
    for stage in range(1, 5):
        gate = weights.get(f'layer{stage}.0.eca.conv.weight')
        if gate is not None:
            sizes.append(gate.shape[-1])
    return tuple(sizes)


def read_backbone(checkpoint: str) -> dict[str, Tensor]:
    """Read a backbone's state dict; ``module.`` and the classifier are removed.

    Args:
        checkpoint: local path.

    Raises:
        FileNotFoundError: with where to get the file.
        ValueError: the file holds no state dict, or needs unsafe unpickling.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(missing_file_message(checkpoint))
    try:
        content: Any = torch.load(checkpoint, map_location='cpu', weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'{checkpoint} cannot be read as PyTorch weights (weights_only=True): '
            f'{reason}'
        ) from error
    if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
        content = content['state_dict']
    tensors = isinstance(content, dict) and all(
        isinstance(value, Tensor) for value in content.values()
    )
    if not tensors or not content:
        raise ValueError(
            f'{checkpoint} holds no state dict: expected a dict of tensors, bare or '
            f"under 'state_dict'; got {type(content).__name__}."
        )
    stripped = {key.removeprefix('module.'): value for key, value in content.items()}
    return {k: v for k, v in stripped.items() if not k.startswith('fc.')}
