"""Initial weights of a backbone: its declaration, and a guard against random gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseModule
from torch import nn

from eca_mmdet.compat import batch_norm_base
from eca_mmdet.models.attention.gate import Gate


@dataclass(frozen=True)
class FileNames:
    """What a backbone whose tensors are not renamed declares as ``file_names``.

    Every tensor of the checkpoint must then be the backbone's, or in a module below.
    """

    library: str  # whose names they are ('timm')
    classifier: tuple[str, ...] = ()  # modules that tell the number of classes
    heads: tuple[str, ...] = ()  # behind the last level; auxiliary classifiers
    left_out: tuple[str, ...] = ()  # of feature levels that the backbone does not run
    gates: tuple[str, ...] = ()  # attention modules; a public file may be without them

    def part_of(self, key: str) -> str:
        """Return which part a tensor is of: 'classifier', 'heads', 'left_out' or ''."""
        for part in ('classifier', 'heads', 'left_out'):
            if any(key.startswith(f'{name}.') for name in getattr(self, part)):
                return part
        return ''


def file_names_of(backbone: object) -> FileNames | None:
    """Return what a backbone declares; None where it has mmdet's names."""
    names = getattr(backbone, 'file_names', None)
    return names if isinstance(names, FileNames) else None


class InitGuard:
    """Backbone mixin that rejects an ``init_cfg`` under which gates stay random.

    A config that inherits ``init_cfg=dict(type='Pretrained', ...)`` would start from
    torchvision's ResNet with random gates, with no more than a warning.
    """

    init_cfg: Any

    def init_weights(self) -> None:
        """Check ``init_cfg``, then initialise as mmengine does."""
        check_init_cfg(self, self.init_cfg)  # type: ignore[arg-type]
        super().init_weights()  # type: ignore[misc]


class FreezableBackbone(InitGuard, BaseModule):  # type: ignore[misc]
    """Base class of backbones that mmdet has not, with its ways to freeze a part."""

    norm_eval: bool

    def freeze(self) -> None:
        """Put what ``frozen_stages`` names in evaluation mode, without gradients."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> FreezableBackbone:
        """Switch modes; frozen layers, and norms if asked, stay in evaluation."""
        super().train(mode)
        self.freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, batch_norm_base()):
                    module.eval()
        return self


def check_init_cfg(backbone: nn.Module, init_cfg: Any) -> None:
    """Raise if a backbone with gates would not get its weights, or lose them again.

    The backbone may be on the meta device; the ValueError has the ``init_cfg`` to use.
    """
    entries = as_list(init_cfg)
    kinds = [_kind(entry) for entry in entries]
    gates = any(isinstance(module, Gate) for module in backbone.modules())
    if gates and {'Pretrained', 'PretrainedInit'} & set(kinds):
        checkpoints = (e['checkpoint'] for e in entries if 'checkpoint' in e)
        checkpoint = next(checkpoints, None)
        raise ValueError(
            f"{type(backbone).__name__} has gates: init_cfg type 'Pretrained' loads "
            'what fits and leaves the other gates random without an error. Use '
            f"init_cfg=dict(type='ECAPretrained', checkpoint={checkpoint!r}), with "
            'random_gates=True where a plain ResNet is meant to start with new gates.'
        )
    if 'ECAPretrained' in kinds[:-1]:
        raise ValueError(
            f'{type(backbone).__name__}: init_cfg runs in order, and {kinds[-1]!r} '
            "would overwrite what 'ECAPretrained' loads. Put 'ECAPretrained' last."
        )


def as_list(init_cfg: Any) -> list[Any]:
    """Return the dicts of an ``init_cfg``, which may be one, several or None."""
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return [entry for entry in entries if isinstance(entry, dict)]


def _kind(init_cfg: Any) -> str:
    """Return an initializer's name, also where the type is a class or has a scope."""
    kind = init_cfg.get('type')
    name: str = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[2]
