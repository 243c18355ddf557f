"""The public ECA architectures as data. No import.

Source: BangguWu/ECANet (kernel sizes, MobileNetV2), timm (the ``ecaresnet`` family),
Sandler et al., MobileNetV2, arXiv:1801.04381. The widths of the pruned models are those
of the tensors in timm's two public files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

RESNET_BLOCKS = {
    18: ('basic', (2, 2, 2, 2)),
    34: ('basic', (3, 4, 6, 3)),
    50: ('bottleneck', (3, 4, 6, 3)),
    101: ('bottleneck', (3, 4, 23, 3)),
    152: ('bottleneck', (3, 8, 36, 3)),
}
"""Block and number of blocks a stage, by depth."""

RELEASED_KERNEL_SIZES = {
    18: (3, 5, 7, 7),
    34: (3, 3, 5, 7),
    50: (3, 5, 5, 7),
    101: (3, 3, 5, 7),
    152: (3, 3, 5, 7),
}
"""Kernel sizes of the authors' ImageNet weights, by depth."""

TIMM_KERNEL_SIZES = (5, 5, 5, 7)
"""Kernel sizes of every timm ``ecaresnet`` file: psi of the unpruned block output."""

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each stage."""

MOBILENET_V2_KERNEL_SIZES = (1, 1, 1, 1, 3, 3, 3)
"""The authors' MobileNetV2: k = 1 under 96 channels, else 3."""


Widths = tuple[tuple[tuple[int, ...], ...], ...]
"""Output channels of each convolution: [stage][block][convolution]."""


class DLayout(NamedTuple):
    """A ResNet-D: how its stem and its blocks are wide."""

    stem: tuple[int, ...]  # one width: a 7x7 convolution; three: 3x3 convolutions
    widths: Widths  # of the three convolutions of every bottleneck


def regular_widths(depths: Sequence[int], base_channels: int = 64) -> Widths:
    """Return ResNet's widths: ``base_channels`` doubles by stage, output is fourfold.

    >>> regular_widths((1, 2))
    (((64, 64, 256),), ((128, 128, 512), (128, 128, 512)))
    """
    return tuple(
        ((base_channels << stage, base_channels << stage, base_channels << stage + 2),)
        * blocks
        for stage, blocks in enumerate(depths)
    )


def _widths(*stages: str) -> Widths:
    """Read '47-18-19 52-22-19' as two blocks of three convolutions."""
    return tuple(
        tuple(tuple(map(int, block.split('-'))) for block in stage.split())
        for stage in stages
    )


_DEEP, _TIERED, _PLAIN = (32, 32, 64), (24, 32, 64), (64,)

D_LAYOUTS = {
    '26t': DLayout(_TIERED, regular_widths((2, 2, 2, 2))),
    '50t': DLayout(_TIERED, regular_widths((3, 4, 6, 3))),
    '50d': DLayout(_DEEP, regular_widths((3, 4, 6, 3))),
    '101d': DLayout(_DEEP, regular_widths((3, 4, 23, 3))),
    '269d': DLayout(_DEEP, regular_widths((3, 30, 48, 8))),
    'light': DLayout(_PLAIN, regular_widths((1, 1, 11, 3))),
    '50d_pruned': DLayout(
        _DEEP,
        _widths(
            '47-18-19 52-22-19 64-35-19',
            '85-37-171 107-80-171 120-85-171 125-87-171',
            '198-126-818 255-232-818 256-233-818 253-235-818 256-225-818 256-239-818',
            '492-237-2022 512-500-2022 512-490-2022',
        ),
    ),
    '101d_pruned': DLayout(
        _DEEP,
        _widths(
            '45-25-26 53-20-26 60-27-26',
            '81-24-142 93-49-142 102-54-142 122-78-142',
            '101-25-278 239-160-278 234-156-278 250-176-278 253-191-278 251-175-278 '
            '230-128-278 244-154-278 244-159-278 238-97-278 244-149-278 253-181-278 '
            '245-119-278 255-216-278 256-201-278 253-149-278 254-141-278 256-190-278 '
            '256-217-278 255-156-278 256-155-278 256-232-278 256-214-278',
            '499-289-2042 512-512-2042 512-502-2042',
        ),
    ),
}
"""timm's ``ecaresnet`` architectures, by the end of their name."""
