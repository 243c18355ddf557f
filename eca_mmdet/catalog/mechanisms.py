"""The mechanisms that the ECA-Net paper and article compare, as data. No import.

The paper: Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151; the article: Attention
Mechanisms in Computer Vision: ECA-Net, Paperspace blog.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eca_mmdet.utils.errors import UserError

BLOCK = 'block'
"""The end of every residual branch: after the last norm, before the residual add."""

_BETWEEN_STAGES = (True, True, True, False)


@dataclass(frozen=True)
class Mechanism:
    """One mechanism and where it goes in a ResNet.

    Attributes:
        key: on the command line, as 'se-var1'.
        name: the paper's, as 'SE-Var1'.
        layer: config of the plugin layer, without ``in_channels``.
        published: its parameters in the published tables; '' where not given.
        source: paper or repository.
        position: :data:`BLOCK`, or a position of a stage.
        stages: which; None for all.
        narrow: what differs in ``layer`` where there are 16 channels or so.
        imagenet: its name in the published ImageNet tables, '' for none.
    """

    key: str
    name: str
    layer: Mapping[str, Any]
    published: str
    source: str
    position: str = BLOCK
    stages: tuple[bool, ...] | None = None
    narrow: Mapping[str, Any] = field(default_factory=dict)
    imagenet: str = ''

    def plugin(self, depth: int, narrow: bool = False) -> dict[str, Any]:
        """Return the entry of ``plugins`` for this package's ResNets.

        Args:
            depth: of the ResNet, which decides what the end of a block is called.
            narrow: for few channels.
        """
        end = 'after_conv2' if depth < 50 else 'after_conv3'
        position = end if self.position == BLOCK else self.position
        layer = {**self.layer, **(self.narrow if narrow else {})}
        entry: dict[str, Any] = {'cfg': layer, 'position': position}
        if self.stages:
            entry['stages'] = self.stages
        return entry


_PAPER = 'Wang et al., CVPR 2020'
_SE = {'type': 'SqueezeExcite', 'ratio': 16}
_R8 = {'ratio': 8}

MECHANISMS = (
    Mechanism(
        *('se', 'SE', _SE, '2C^2/r', 'Hu et al., CVPR 2018'), narrow=_R8, imagenet='SE'
    ),
    Mechanism(
        *('se-var1', 'SE-Var1', {'type': 'SEVar1'}, '0', _PAPER), imagenet='SE-Var1'
    ),
    Mechanism(
        *('se-var2', 'SE-Var2', {'type': 'SEVar2'}, 'C', _PAPER), imagenet='SE-Var2'
    ),
    Mechanism(
        *('se-var3', 'SE-Var3', {'type': 'SEVar3'}, 'C^2', _PAPER), imagenet='SE-Var3'
    ),
    Mechanism(
        *('se-gc1', 'SE-GC1', {'type': 'SEGC1'}, 'C^2/16', _PAPER),
        imagenet='SE-GC1 (16 groups)',
    ),
    Mechanism(
        *('se-gc2', 'SE-GC2', {'type': 'SEGC2'}, '16C', _PAPER),
        imagenet='SE-GC2 (C/16 groups)',
    ),
    Mechanism(
        *('se-gc3', 'SE-GC3', {'type': 'SEGC3'}, '8C', _PAPER),
        imagenet='SE-GC3 (C/8 groups)',
    ),
    Mechanism(
        *('eca-ns', 'ECA-NS', {'type': 'ECANS'}, 'kC', _PAPER), imagenet='ECA-NS'
    ),
    Mechanism(*('eca', 'ECA', {'type': 'ECALayer'}, 'k', _PAPER), imagenet='ECA'),
    Mechanism(
        'ceca', 'CECA', {'type': 'ECALayer', 'circular': True}, 'k', 'timm (CECA)'
    ),
    Mechanism(
        *('cbam', 'CBAM', {'type': 'CBAM'}, '2C^2/r + 2k^2', 'Woo et al., ECCV 2018'),
        narrow=_R8,
        imagenet='CBAM',
    ),
    Mechanism(
        'bam',
        'BAM',
        {'type': 'BAM'},
        'C/r (3C + 2k^2 C/r + 1)',
        'Park et al., BMVC 2018',
        position='after_stage',
        stages=_BETWEEN_STAGES,
        narrow=_R8,
    ),
    Mechanism(
        'gc',
        'GC',
        {'type': 'ContextBlock', 'ratio': 1 / 16},
        '2C^2/r + C',
        'Cao et al., ICCVW 2019 (mmcv)',
        stages=(False, True, True, True),
        narrow={'ratio': 1 / 8},
    ),
    Mechanism(
        *('ge-theta-minus', 'GE-theta-minus', {'type': 'GEThetaMinus'}, '0'),
        'Hu et al., NeurIPS 2018',
    ),
    Mechanism(
        *('ge-theta', 'GE-theta', {'type': 'GETheta'}, '', 'Hu et al., NeurIPS 2018'),
    ),
    Mechanism(
        *('ge-theta-plus', 'GE-theta-plus', {'type': 'GEThetaPlus'}, ''),
        'Hu et al., NeurIPS 2018',
        narrow=_R8,
    ),
    Mechanism(
        *('a2', 'A2-Nets', {'type': 'DoubleAttention'}, ''),
        'Chen et al., NeurIPS 2018',
        position='after_stage',
        stages=(False, True, True, False),
    ),
    Mechanism(
        *('gsop', 'GSoP-Nets', {'type': 'GSoP'}, '', 'Gao et al., CVPR 2019'),
        position='after_stage',
        imagenet='GSoP-Net1',
    ),
    Mechanism(
        *('nl', 'NL', {'type': 'NonLocal2d', 'reduction': 2}, ''),
        'Wang et al., CVPR 2018 (mmcv)',
        position='before_last_block',
        stages=(False, False, True, False),
    ),
    Mechanism(
        *('fca', 'FcaNet', {'type': 'FcaNet'}, '', 'Qin et al., ICCV 2021'), narrow=_R8
    ),
)
"""In the order of the paper's sections, then of its related work."""

LAYER_NAMES = {
    'se_var1': 'SE-Var1',
    'se_var2': 'SE-Var2',
    'se_var3': 'SE-Var3',
    'se_gc': 'SE-GC',
    'eca_ns': 'ECA-NS',
    'cbam': 'CBAM',
    'bam': 'BAM',
    'context_block': 'GC',
    'ge_theta': 'GE-theta',
    'a2': 'A2',
    'gsop': 'GSoP',
    'nonlocal_block': 'NL',
}
"""How names of layers in a backbone begin, other than those of ECA, SE and FcaNet."""

KEYS = tuple(one.key for one in MECHANISMS)


def find_mechanism(key: str) -> Mechanism:
    """Return a mechanism by its key.

    Raises:
        UserError: there is none; with the near ones.
    """
    for one in MECHANISMS:
        if one.key == key:
            return one
    names = {one.name.lower(): one.key for one in MECHANISMS}
    names |= {one: one for one in KEYS}
    near = difflib.get_close_matches(key.lower(), names, n=3, cutoff=0.5)
    keys = list(dict.fromkeys(names[one] for one in near))
    hint = f'Did you mean {" or ".join(keys)}? ' if keys else ''
    raise UserError(f'no mechanism {key!r}. {hint}There are: {", ".join(KEYS)}.')
