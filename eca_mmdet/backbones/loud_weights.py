"""No backbone with gates loads weights the silent way."""

from __future__ import annotations

from typing import Any


class LoudWeights:
    """Mixin: refuse mmengine's ``Pretrained``, which leaves gates random.

    A config that inherits ``init_cfg=dict(type='Pretrained', ...)`` would start from
    torchvision's ResNet with random gates, and only a warning would tell.
    """

    init_cfg: Any

    def init_weights(self) -> None:
        """Initialise as mmengine does.

        Raises:
            ValueError: ``init_cfg`` is of type 'Pretrained'.
        """
        refuse_silent_weights(type(self).__name__, self.init_cfg)
        super().init_weights()  # type: ignore[misc]


def refuse_silent_weights(owner: str, init_cfg: Any) -> None:
    """Raise if ``init_cfg`` loads by mmengine's ``Pretrained``.

    Args:
        owner: the backbone's name, for the message.
        init_cfg: a dict, a list of dicts or None.

    Raises:
        ValueError: with the ``init_cfg`` to use.
    """
    for one in init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]:
        if one.get('type') in ('Pretrained', 'PretrainedInit'):
            checkpoint = one.get('checkpoint')
            raise ValueError(
                f"{owner}: init_cfg type 'Pretrained' loads what fits and leaves the "
                'other gates random without an error. Use init_cfg=dict('
                f"type='ECAPretrained', checkpoint={checkpoint!r}), with "
                'random_gates=True where a plain ResNet is meant to start with new '
                'gates.'
            )
