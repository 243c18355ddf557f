"""Layouts: names of the same tensors in different libraries.

Inside this package a tensor has the name mmdet's backbone gives it ('stem.3.weight',
'layer1.0.eca.conv.weight', 'layer1.0.se.fc.0.weight'). A layout has a table of rules
from another library's names to those; each rule works in both directions. To recognise
a new layout, add a ``Layout`` here; a new attention layer in it is a ``GateKind``.

Sources: BangguWu/ECANet, timm, moskomule/senet.pytorch, mmpretrain, torchvision,
cfzd/FcaNet.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from eca_mmdet.catalog.architectures import MOBILENET_V2_STAGES
from eca_mmdet.catalog.mechanisms import LAYER_NAMES
from eca_mmdet.utils.errors import WeightsError

if TYPE_CHECKING:
    from eca_mmdet.models.initialization import FileNames  # imports mmengine


@dataclass(frozen=True)
class Rule:
    """Names in two libraries; '@' is a block ('layer1.0'), '*' the rest."""

    theirs: str
    ours: str
    convolution: bool = False  # theirs is a 1x1 convolution, ours a linear layer

    def rename(self, key: str, to_ours: bool) -> str | None:
        """Return the name on the other side; None for a name outside this rule."""
        names = self.theirs, self.ours
        source, target = names if to_ours else names[::-1]
        match = _pattern(source).fullmatch(key)
        if not match:
            return None
        parts = iter(match.groups())
        return re.sub('[@*]', lambda _: next(parts), target)


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    block, rest = r'(layer[1-9]\.[0-9]{1,3})', r'([\w.]+)'
    return re.compile(re.escape(name).replace('@', block).replace(r'\*', rest))


def _mobilenet_v2_rules() -> tuple[Rule, ...]:
    """Map torchvision's (and the authors') 'features.N.conv.M' to mmdet's blocks."""
    ours = {'features.0.0': 'conv1.conv', 'features.0.1': 'conv1.bn'}
    index = 1
    for stage, (expansion, _, blocks, _) in enumerate(MOBILENET_V2_STAGES, 1):
        for block in range(blocks):
            parts = ['expand_conv', 'depthwise_conv'][expansion == 1 :]
            layers = [f'{i}.{j}' for i in range(len(parts)) for j in (0, 1)]
            names = [f'{part}.{layer}' for part in parts for layer in ('conv', 'bn')]
            layers += [f'{len(parts) + i}' for i in range(3)]
            names += ['linear_conv.conv', 'linear_conv.bn', 'eca']
            for layer, name in zip(layers, names, strict=True):
                ours[f'features.{index}.conv.{layer}'] = f'layer{stage}.{block}.{name}'
            index += 1
    ours |= {f'features.{index}.0': 'conv2.conv', f'features.{index}.1': 'conv2.bn'}
    return tuple(Rule(f'{name}.*', f'{ours[name]}.*') for name in ours)


@dataclass(frozen=True)
class GateKind:
    """An attention layer of public checkpoints, whose tensors are known in full."""

    name: str  # e.g. 'ECA'
    layer: str  # its name in a block of mmdet, and in the names of shipped configs
    tensors: str  # regular expression of its tensors' names
    size: str  # the tensor whose shape tells its kernel size or hidden units,
    axis: int = 0  # along this axis


GATES = {
    kind.name: kind
    for kind in (
        GateKind('ECA', 'eca', r'conv\.weight', 'conv.weight', -1),
        GateKind('SE', 'se', r'fc\.[02]\.(weight|bias)', 'fc.0.weight'),
        GateKind('FcaNet', 'fca', r'fc\.[02]\.weight', 'fc.0.weight'),
    )
}


@dataclass(frozen=True)
class Layout:
    """Names of tensors in the backbones and classifiers of one library."""

    origin: str  # the library, as reported to users
    # Regular expression found in a name of each such checkpoint, and in none of the
    # layouts before it in LAYOUTS.
    sign: str = ''
    rules: tuple[Rule, ...] = ()  # names without a rule are equal to mmdet's
    # Origins that differ: by attention layer, and without a classifier.
    gate_origins: Mapping[str, str] = field(default_factory=dict)
    bare_origin: str = ''
    gates: tuple[str, ...] = ('ECA', 'SE')  # that can be converted to this layout


_TIMM_GATES = (
    Rule('@.se.conv.weight', '@.eca.conv.weight'),
    Rule('@.se.fc1.*', '@.se.fc.0.*', convolution=True),
    Rule('@.se.fc2.*', '@.se.fc.2.*', convolution=True),
)
_DEEP_STEM = (
    Rule('bn1.*', 'stem.7.*'),
    *(Rule(f'conv1.{i}.*', f'stem.{i}.*') for i in (0, 1, 3, 4, 6)),
)

MOBILENET_V2 = Layout(
    'torchvision',
    r'^features\.0\.0\.weight$',
    _mobilenet_v2_rules(),
    gate_origins={'ECA': 'authors'},
)
TIMM_DEEP_STEM = Layout('timm', r'^conv1\.0\.weight$', (*_TIMM_GATES, *_DEEP_STEM))
TIMM = Layout('timm', r'\.se\.(conv|fc1)\.', _TIMM_GATES)
MMDET = Layout(
    'mmdet', r'^(stem\.0|conv1\.conv)\.weight$', bare_origin='mmdet', gates=(*GATES,)
)
AUTHORS = Layout(  # torchvision's names too, and those of mmdet's own backbones
    'torchvision',
    gate_origins={'ECA': 'authors', 'SE': 'senet.pytorch'},
    bare_origin='mmdet',
)

LAYOUTS = (
    MOBILENET_V2,
    Layout(
        'mmpretrain',
        r'\.se_layer\.',
        (
            Rule('@.se_layer.conv1.conv.*', '@.se.fc.0.*', convolution=True),
            Rule('@.se_layer.conv2.conv.*', '@.se.fc.2.*', convolution=True),
        ),
    ),
    Layout(
        'FcaNet',
        r'\.att\.dct_layer\.',
        (
            Rule('@.att.fc.*', '@.fca.fc.*'),
            Rule('@.att.dct_layer.weight', '@.fca.filters'),
        ),
    ),
    TIMM_DEEP_STEM,
    TIMM,
    MMDET,
    AUTHORS,
)
"""Layouts in the order in which they are tried; the last fits every name."""

_NORM = r'(weight|bias|running_mean|running_var|num_batches_tracked)'
_GATE_TENSORS = '|'.join(rf'{kind.layer}\.{kind.tensors}' for kind in GATES.values())
_KNOWN = re.compile(
    rf"""
    conv1\.weight | bn1\.{_NORM} | stem\.[036]\.weight | stem\.[147]\.{_NORM}
    | layer[1-9]\.[0-9]{{1,3}}\.(
        conv[123]\.weight | bn[123]\.{_NORM}
        | downsample\.[01]\.weight | downsample\.[12]\.{_NORM}
        | {_GATE_TENSORS}
        | (expand|depthwise|linear)_conv\.(conv\.weight|bn\.{_NORM})
      )
    | conv[12]\.(conv\.weight|bn\.{_NORM})
    """,
    re.VERBOSE,
)
_ATTENTION = re.compile(rf'layer\d+\.(\d+\.)?(?P<layer>{"|".join(LAYER_NAMES)})\w*\.')
_CONSTANT = re.compile(r'layer\d+\.\d+\.fca\.filters')
CLASSIFIER = re.compile(r'(head\.)?(fc|classifier\.1|head)\.(weight|bias)')


@dataclass
class Canonical:
    """A state dict under mmdet's names; unknown tensors keep their own."""

    layout: Layout
    backbone: dict[str, Tensor] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)  # mmdet's name to the file's
    # Tensors that follow from a layer's arguments.
    constants: dict[str, Tensor] = field(default_factory=dict)
    classifier: dict[str, Tensor] = field(default_factory=dict)  # by the file's name
    rest: list[str] = field(default_factory=list)  # other parts of a detector
    unknown: list[str] = field(default_factory=list)  # in no public architecture


def is_known(name: str) -> bool:
    """Return whether a public architecture has a tensor of this name (mmdet's)."""
    return _KNOWN.fullmatch(name) is not None


def attention_of(name: str) -> tuple[str, str] | None:
    """Return ``('CBAM', 'layer1.0.cbam.')`` and the like; not ECA, SE and FcaNet."""
    match = _ATTENTION.match(name)
    return (LAYER_NAMES[match['layer']], match[0]) if match else None


def to_canonical(state: dict[str, Tensor], names: FileNames | None = None) -> Canonical:
    """Rename a file's tensors to mmdet's names, unless a backbone declares its own."""
    result = Canonical(Layout(names.library) if names else AUTHORS)
    owned = any(key.startswith('backbone.') for key in state)
    bare = {}
    for key, tensor in state.items():
        name = key.removeprefix('backbone.')
        part = names.part_of(name) if names else ''
        if part == 'classifier' or (not names and CLASSIFIER.fullmatch(key)):
            result.classifier[key] = tensor
        elif part == 'heads' or (owned and key == name):
            result.rest.append(key)
        else:
            bare[name] = key
    if names is None:
        signs = ((layout, re.compile(layout.sign)) for layout in LAYOUTS)
        fitting = (layout for layout, sign in signs if any(map(sign.search, bare)))
        result.layout = next(fitting, AUTHORS)
    if owned and result.layout is AUTHORS:
        result.layout = MMDET
    for key, original in bare.items():
        name, tensor = rename(key, state[original], result.layout, to_ours=True)
        if name in result.source:
            raise WeightsError(
                f'two tensors are the same one: {result.source[name]} and {original} '
                f'both are {name} in mmdet.',
                code='checkpoint-unrecognised',
            )
        result.source[name] = original
        if _CONSTANT.fullmatch(name):
            result.constants[name] = tensor
        else:
            result.backbone[name] = tensor
            result.unknown += [] if is_known(name) else [original]
    return result


def rename(
    key: str, tensor: Tensor, layout: Layout, to_ours: bool
) -> tuple[str, Tensor]:
    """Return a tensor's name and shape under mmdet's names, or in another layout."""
    for rule in layout.rules:
        name = rule.rename(key, to_ours)
        if name is not None:
            if rule.convolution and tensor.dim() == (4 if to_ours else 2):
                tensor = tensor.flatten(1) if to_ours else tensor[:, :, None, None]
            return name, tensor
    return key, tensor
