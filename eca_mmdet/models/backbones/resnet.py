"""ECA-ResNet.

Source: Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151. State-dict keys are those of
the authors' ImageNet files (``layer1.0.eca.conv.weight``), without ``fc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.models.attention.eca import check_kernel_size
from eca_mmdet.models.backbones.plugin_resnet import PluginResNet


@MODELS.register_module()
class ECAResNet(PluginResNet):
    """ResNet with an ECA gate at the end of every residual branch.

    The gate follows the block's last norm and precedes the residual add.

    Args:
        depth: 18, 34, 50, 101 or 152.
        kernel_sizes: One odd integer a stage; one integer for all stages; or
            'adaptive', psi of each block's output channels. There is no default:
            released weights differ in it by depth, and neither the formula nor a
            file's name tells. A checkpoint's tensors do.
        attention: another layer in the gate's place, e.g. ``dict(type='CBAM')``; it
            replaces ``kernel_sizes``.
        plugins: further plugins, as :class:`PluginResNet` takes them; they come after
            the gate where they share its position.
        **kwargs: as :class:`PluginResNet`, ``memory`` among them, and mmdet's
            ``ResNet``.

    Raises:
        ValueError: ``kernel_sizes`` missing, even, or not one a stage, or beside
            ``attention``; what :class:`PluginResNet` refuses.
    """

    def __init__(
        self,
        depth: int,
        kernel_sizes: Sequence[int] | int | str | None = None,
        attention: dict[str, Any] | None = None,
        plugins: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if attention is not None:
            if kernel_sizes is not None:
                raise ValueError(
                    'kernel_sizes are of the ECA gate, which attention replaces: give '
                    f'one of them; got {kernel_sizes!r} and {attention!r}.'
                )
            super().__init__(depth, attention=attention, plugins=plugins, **kwargs)
            return
        num_stages = kwargs.get('num_stages', 4)
        self.kernel_sizes = stage_kernel_sizes(kernel_sizes, num_stages, _hint(depth))
        gates = [
            dict(
                cfg=dict(type='ECALayer', kernel_size=size),
                stages=tuple(other == stage for other in range(num_stages)),
                position=self.block_positions(depth)[-1],
            )
            for stage, size in enumerate(self.kernel_sizes)
        ]
        super().__init__(depth, plugins=[*gates, *(plugins or [])], **kwargs)


def _hint(depth: int) -> str:
    released = RELEASED_KERNEL_SIZES.get(depth)
    if released:
        return f"The authors' ImageNet ResNet-{depth} uses {released}."
    return f'Released weights use {RELEASED_KERNEL_SIZES}.'


def stage_kernel_sizes(
    kernel_sizes: Sequence[int] | int | str | None, num_stages: int, hint: str
) -> tuple[int | None, ...]:
    """Return one kernel size a stage; None leaves it to the layer ('adaptive').

    Args:
        kernel_sizes: one odd integer a stage, one for all stages, or 'adaptive'.
        num_stages: how many stages there are.
        hint: the end of the error message: what released weights use.

    Raises:
        ValueError: anything else.
    """
    if kernel_sizes == 'adaptive':
        return (None,) * num_stages
    if isinstance(kernel_sizes, int):
        return (check_kernel_size(kernel_sizes),) * num_stages
    valid = isinstance(kernel_sizes, Sequence) and not isinstance(kernel_sizes, str)
    if not valid or len(kernel_sizes) != num_stages:  # type: ignore[arg-type]
        raise ValueError(
            f'kernel_sizes must be {num_stages} odd integers (one a stage), one odd '
            f"integer, or 'adaptive'; got {kernel_sizes!r}. {hint}"
        )
    return tuple(map(check_kernel_size, kernel_sizes))  # type: ignore[arg-type]
