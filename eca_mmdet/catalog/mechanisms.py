"""Attention mechanisms of the ECA-Net paper and article, as data: one row each.

Adding a mechanism takes a layer in ``models/attention``, a row here and a config.
Exports, names in checkpoints, commands, documentation and tests follow from the row.

The paper: Wang et al., ECA-Net, CVPR 2020, arXiv:1910.03151; the article: Attention
Mechanisms in Computer Vision: ECA-Net, Paperspace blog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import suggestion

BLOCK = 'block'
"""The end of every residual branch: after the last norm, before the residual add."""

_BETWEEN_STAGES = (True, True, True, False)


@dataclass(frozen=True)
class Mechanism:
    """One mechanism and where it goes in a ResNet.

    ``family`` is what its checkpoints are called, if not by ``name``: layers that have
    the same tensors share it. ``checkpoints.key_maps`` lists the tensors of ``files``.
    """

    key: str  # name on the command line, e.g. 'se-var1'
    name: str  # the paper's name, e.g. 'SE-Var1'
    layer: Mapping[str, Any]  # config of the plugin layer, without ``in_channels``
    module: str  # of eca_mmdet.models.attention; '' for a layer of mmcv
    abbr: str  # ``_abbr_`` of its class: its name in a block and in checkpoints
    published: str  # its parameters in the published tables; '' where not given
    source: str  # paper or repository
    position: str = BLOCK  # or a position of a stage
    stages: tuple[bool, ...] | None = None  # which stages have it; None for all
    narrow: Mapping[str, Any] = field(default_factory=dict)  # for 16 channels or so
    adds: bool = False  # to the map, starting as the identity; others multiply it
    imagenet: str = ''  # its name in the published ImageNet tables, if not ``name``
    family: str = ''
    files: str = ''  # public ImageNet checkpoints that have it

    @property
    def type(self) -> str:
        """Name of the layer's class."""
        return str(self.layer['type'])

    @property
    def has_parameters(self) -> bool:
        """Whether its layers have anything to learn."""
        return self.published != '0'

    def plugin(self, depth: int, narrow: bool = False) -> dict[str, Any]:
        """Return the entry of ``plugins`` for this package's ResNets.

        ``narrow`` is for about 16 channels.
        """
        end = 'after_conv2' if depth < 50 else 'after_conv3'
        position = end if self.position == BLOCK else self.position
        layer = {**self.layer, **(self.narrow if narrow else {})}
        stages = {'stages': self.stages} if self.stages else {}
        return {'cfg': layer, 'position': position, **stages}


_PAPER = 'Wang et al., CVPR 2020'
_GE = 'Hu et al., NeurIPS 2018'
_R8 = {'ratio': 8}

MECHANISMS = (
    Mechanism(
        *('se', 'SE', {'type': 'SqueezeExcite', 'ratio': 16}, 'squeeze_excite', 'se'),
        *('2C^2/r', 'Hu et al., CVPR 2018'),
        narrow=_R8,
        files="SE files without biases; timm's `seresnet50` with `bias=True`",
    ),
    Mechanism(
        *('se-var1', 'SE-Var1', {'type': 'SEVar1'}, 'squeeze_excite', 'se_var1'),
        *('0', _PAPER),
    ),
    Mechanism(
        *('se-var2', 'SE-Var2', {'type': 'SEVar2'}, 'squeeze_excite', 'se_var2'),
        *('C', _PAPER),
    ),
    Mechanism(
        *('se-var3', 'SE-Var3', {'type': 'SEVar3'}, 'squeeze_excite', 'se_var3'),
        *('C^2', _PAPER),
    ),
    Mechanism(
        *('se-gc1', 'SE-GC1', {'type': 'SEGC1'}, 'squeeze_excite', 'se_gc1'),
        *('C^2/16', _PAPER),
        imagenet='SE-GC1 (16 groups)',
        family='SE-GC',
    ),
    Mechanism(
        *('se-gc2', 'SE-GC2', {'type': 'SEGC2'}, 'squeeze_excite', 'se_gc2'),
        *('16C', _PAPER),
        imagenet='SE-GC2 (C/16 groups)',
        family='SE-GC',
    ),
    Mechanism(
        *('se-gc3', 'SE-GC3', {'type': 'SEGC3'}, 'squeeze_excite', 'se_gc3'),
        *('8C', _PAPER),
        imagenet='SE-GC3 (C/8 groups)',
        family='SE-GC',
    ),
    Mechanism('eca-ns', 'ECA-NS', {'type': 'ECANS'}, 'eca', 'eca_ns', 'kC', _PAPER),
    Mechanism(
        *('eca', 'ECA', {'type': 'ECALayer'}, 'eca', 'eca', 'k', _PAPER),
        files="the authors' and timm's ECA files",
    ),
    Mechanism(
        *('ceca', 'CECA', {'type': 'ECALayer', 'circular': True}, 'eca', 'eca'),
        *('k', 'timm (CECA)'),
        family='ECA',
    ),
    Mechanism(
        *('cbam', 'CBAM', {'type': 'CBAM'}, 'cbam', 'cbam'),
        *('2C^2/r + 2k^2', 'Woo et al., ECCV 2018'),
        narrow=_R8,
    ),
    Mechanism(
        *('bam', 'BAM', {'type': 'BAM'}, 'cbam', 'bam'),
        *('C/r (3C + 2k^2 C/r + 1)', 'Park et al., BMVC 2018'),
        position='after_stage',
        stages=_BETWEEN_STAGES,
        narrow=_R8,
    ),
    Mechanism(
        *('gc', 'GC', {'type': 'ContextBlock', 'ratio': 1 / 16}, '', 'context_block'),
        *('2C^2/r + C', 'Cao et al., ICCVW 2019 (mmcv)'),
        stages=(False, True, True, True),
        narrow={'ratio': 1 / 8},
        adds=True,
    ),
    Mechanism(
        *('ge-theta-minus', 'GE-theta-minus', {'type': 'GEThetaMinus'}),
        *('gather_excite', 'ge_theta_minus', '0', _GE),
    ),
    Mechanism(
        *('ge-theta', 'GE-theta', {'type': 'GETheta'}),
        *('gather_excite', 'ge_theta', '', _GE),
    ),
    Mechanism(
        *('ge-theta-plus', 'GE-theta-plus', {'type': 'GEThetaPlus'}),
        *('gather_excite', 'ge_theta_plus', '', _GE),
        narrow=_R8,
        family='GE-theta',
    ),
    Mechanism(
        *('a2', 'A2-Nets', {'type': 'DoubleAttention'}, 'second_order', 'a2'),
        *('', 'Chen et al., NeurIPS 2018'),
        position='after_stage',
        stages=(False, True, True, False),
        adds=True,
        family='A2',
    ),
    Mechanism(
        *('gsop', 'GSoP-Nets', {'type': 'GSoP'}, 'second_order', 'gsop'),
        *('', 'Gao et al., CVPR 2019'),
        position='after_stage',
        imagenet='GSoP-Net1',
        family='GSoP',
    ),
    Mechanism(
        *('nl', 'NL', {'type': 'NonLocal2d', 'reduction': 2}, '', 'nonlocal_block'),
        *('', 'Wang et al., CVPR 2018 (mmcv)'),
        position='before_last_block',
        stages=(False, False, True, False),
        adds=True,
    ),
    Mechanism(
        *('fca', 'FcaNet', {'type': 'FcaNet'}, 'fcanet', 'fca'),
        *('', 'Qin et al., ICCV 2021'),
        narrow=_R8,
        files="the authors' files",
    ),
)
"""In the order of the paper's sections, then of its related work."""

KEYS = tuple(row.key for row in MECHANISMS)

LAYER_MODULES = {row.type: row.module for row in MECHANISMS if row.module}
"""Modules of ``eca_mmdet.models.attention``, by the class that each defines."""

ADDING_LAYERS = frozenset(row.type for row in MECHANISMS if row.adds)
"""Classes of the layers that add to the map."""

_WITH_FILES = {row.abbr for row in MECHANISMS if row.files}

LAYER_NAMES = {
    row.abbr: row.family or row.name
    for row in sorted(MECHANISMS, key=lambda row: -len(row.abbr))
    if row.abbr not in _WITH_FILES
}
"""Names in checkpoints, longest first, without those that have public files."""


def find_mechanism(name: str) -> Mechanism:
    """Return a mechanism by its key, the paper's name or its layer, in any case."""
    known = {
        each.lower(): row
        for row in reversed(MECHANISMS)
        for each in (row.type, row.name, row.key)
    }
    if row := known.get(name.lower()):
        return row
    hint = suggestion(name, {each: row.key for each, row in known.items()})
    raise UserError(
        f'no mechanism {name!r}.{hint} There are: {", ".join(KEYS)}.',
        code='unknown-mechanism',
    )
