"""Checks of ``init_cfg``: no gate of a backbone stays random without an error."""

from __future__ import annotations

from typing import Any

from torch import nn

from eca_mmdet.models.attention.gate import Gate


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
