"""Conversion of checkpoints between the layouts of mmdet, the ECA authors and timm."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eca_mmdet.checkpoints import key_maps
from eca_mmdet.checkpoints.download import is_address, local_file
from eca_mmdet.checkpoints.identify import (
    Architecture,
    Heads,
    recognise,
    size_of,
    unusual_constant,
)
from eca_mmdet.checkpoints.io import find_state, read_checkpoint, write_weights
from eca_mmdet.checkpoints.key_maps import rename
from eca_mmdet.checkpoints.reading import require_values
from eca_mmdet.utils.errors import WeightsError

TARGETS = ('mmdet', 'authors', 'timm')
_V3 = 'MMDetection v3'  # layout of a converted detector
_ROWS = {'fc_cls': 1, 'fc_reg': 4, 'conv_logits': 1}
"""Rows of each class, and in v1 of background, in the layers of two-stage heads."""


@dataclass
class ConvertReport:
    """What became of every tensor of the source."""

    network: str  # e.g. 'ECA-ResNet-50'
    source: str  # layout: 'authors', 'timm', ...
    target: str  # 'mmdet', 'authors', 'timm' or 'MMDetection v3'
    # ECA gates, one per stage; None where a stage has several sizes.
    kernel_sizes: tuple[int | None, ...] | None = ()
    mapped: dict[str, str] = field(default_factory=dict)  # source to target name
    changed: dict[str, str] = field(default_factory=dict)  # to how values were moved
    classes: int | None = None  # None for a backbone
    dropped: dict[str, str] = field(default_factory=dict)  # to the reason

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, ready for JSON."""
        return dict(vars(self))


def convert(
    state: Mapping[str, Tensor],
    to: str = 'mmdet',
    v1_retinanet: bool = False,
    extras: Mapping[str, Any] | None = None,
    chosen: bool = False,
) -> tuple[dict[str, Tensor], ConvertReport]:
    """Rename a network's tensors; report every one that is dropped or changed.

    To 'mmdet': a backbone, or an MMDetection v1 detector for 3.x. To 'authors' or
    'timm': a backbone and its classifier; a detector's heads are dropped. ``extras``,
    the entries beside the tensors, may tell the version. With ``chosen`` the tensors
    are one set of several, and a detector of 2.x or 3.x stays as it is.
    """
    if to not in TARGETS:
        raise WeightsError(
            f'convert to one of {", ".join(TARGETS)}; got {to!r}.',
            code='option-invalid',
        )
    inside = find_state(dict(state))
    own, sources = (inside.state, inside.sources) if inside else (dict(state), {})
    known = recognise(own, extras)
    canonical, heads, found = known.canonical, known.heads, known.network
    if found is None:
        names = ', '.join(list(canonical.backbone)[:3]) or 'no backbone'
        raise _unrecognised(
            'neither a ResNet nor a MobileNetV2: expected names like '
            f'layer1.0.conv1.weight or features.1.conv.0.0.weight; got {names}'
        )
    if unknown := canonical.unknown:
        shown = ', '.join(unknown[:3])
        raise _unrecognised(
            f'{len(unknown)} tensors are of no layer that is known here: {shown}'
        )
    layout = _target_layout(found, to)
    if unusual := unusual_constant(canonical):
        raise WeightsError(
            f'{unusual}, and a converted file cannot say so. Load the file as it '
            'is, with the arguments of FcaNet that it needs.',
            code='unsupported-model',
        )
    report = ConvertReport(
        found.title,
        known.origin,
        to,
        found.stage_kernel_sizes if 'ECA' in found.gate else (),
    )
    if heads and to == 'mmdet':
        if chosen and heads.version in ('v2', 'v3', 'v2 or v3'):
            report.target, report.classes = report.source, heads.classes
            report.mapped = {sources[key]: key for key in own}
            return own, report
        _require_v1(heads, v1_retinanet)
        return _convert_v1(own, heads, sources, report), report
    targets = {
        canonical.source[name]: rename(name, tensor, layout, to_ours=False)
        for name, tensor in canonical.backbone.items()
    }
    reasons = dict.fromkeys(canonical.rest, 'detector part: a backbone has none')
    for name in canonical.constants:
        reasons[canonical.source[name]] = "fixed by the layer's arguments"
    for key, tensor in canonical.classifier.items():
        if to == 'mmdet':
            reasons[key] = 'classifier: a backbone has none'
        else:
            layer = 'classifier.1' if found.family == 'MobileNetV2' else 'fc'
            targets[key] = f'{layer}.{key.rpartition(".")[2]}', tensor
    converted: dict[str, Tensor] = {}
    for key in own:
        if key in reasons:
            report.dropped[sources[key]] = reasons[key]
            continue
        name, tensor = targets[key]
        if name in converted:
            raise _unrecognised(f'{key} and another tensor both become {name}')
        converted[name], report.mapped[sources[key]] = tensor, name
    taken = set(sources.values())
    report.dropped |= {k: 'of another module' for k in state if k not in taken}
    return converted, report


def _require_v1(heads: Heads, v1_retinanet: bool) -> None:
    """Reject a detector that is not known to be of MMDetection v1."""
    unclear = heads.version.startswith('v1,')  # a RetinaNet's
    if heads.detector in ('RPN', 'detector'):
        reason = (
            'a detector of MMDetection that is none of Faster, Mask and Cascade (Mask) '
            'R-CNN and RetinaNet: not converted.'
        )
    elif unclear and not v1_retinanet:
        raise WeightsError(
            'a RetinaNet has the same names in MMDetection v1, v2 and v3. If it was '
            'trained with v1 (the released ECA detectors were), add --v1-retinanet; if '
            'not, there is nothing to convert.',
            code='option-invalid',
        )
    elif not unclear and heads.version != 'v1':
        reason = (
            f'already a {heads.title}: nothing to convert. Its backbone can be loaded '
            "as it is: init_cfg=dict(type='ECAPretrained', checkpoint=FILE)."
        )
    else:
        return
    raise WeightsError(reason, code='unsupported-model')


def _convert_v1(
    state: dict[str, Tensor],
    heads: Heads,
    sources: Mapping[str, str],
    report: ConvertReport,
) -> dict[str, Tensor]:
    """Return the tensors of a detector of MMDetection v1 for 3.x.

    Source: state dicts of MMDetection v0.6 to v1.2 (two-stage heads at the top,
    background first) and of 2.x and 3.x (heads under ``roi_head``, background last);
    v1.1.0 (commit 3839478) run beside 3.x. mmdet's ``upgrade_model_version.py`` also
    reorders ``rpn_cls`` and ``retina_cls``, which have no background in v1 either, and
    shifts the biases of ``fc_reg`` and ``conv_logits``.
    """
    two_stage = heads.detector != 'RetinaNet'
    if two_stage and not heads.classes:
        raise _unrecognised(
            f'a {heads.detector} without bbox_head.fc_cls, so that its number of '
            'classes is unknown'
        )
    report.network = f'{heads.detector} on {report.network}'
    report.source, report.target = 'MMDetection v1', _V3
    report.classes = heads.classes
    unchanged = ('backbone.', 'neck.', 'rpn_head.', *['roi_head.'] * two_stage)
    converted = {}
    for key, tensor in state.items():
        name = key
        head = key.removeprefix('roi_head.')  # moved already, with the rows of v1
        if two_stage and head.startswith(('bbox_head.', 'mask_head.')):
            name = f'roi_head.{head}'
            tensor, how = _reorder(key, state, heads)
            if how:
                report.changed[sources[key]] = how
        elif not two_stage and key.startswith('bbox_head.'):
            # v0.6.0 had bare convolutions in its towers.
            towers = r'((?:cls|reg)_convs\.\d+)\.(weight|bias)$'
            name = re.sub(towers, r'\1.conv.\2', key)
        elif not key.startswith(unchanged):
            raise _unrecognised(
                f'{key} is not part of a {heads.detector} of MMDetection v1 (backbone, '
                'neck, rpn_head, bbox_head, mask_head)'
            )
        converted[name], report.mapped[sources[key]] = tensor, name
    return converted


def _reorder(key: str, state: Mapping[str, Tensor], heads: Heads) -> tuple[Tensor, str]:
    """Return a tensor with background where 3.x has it, and what was done.

    v1 counts it as class 0; 3.x as the last class of the scores, and not at all in
    boxes and masks.
    """
    tensor, layer = state[key], key.split('.')[-2]
    rows, own = size_of(tensor), _ROWS.get(layer)
    if own is None:
        return tensor, ''
    if key.endswith('.bias') and rows != size_of(state.get(f'{key[:-4]}weight')):
        raise _unrecognised(f'{key} has {rows} rows, its weight another number')
    if 'Cascade' in heads.detector and layer == 'fc_reg' and rows != own:
        raise _unrecognised(
            f'{key}: a Cascade R-CNN whose boxes differ by class refines with '
            "background's boxes in v1, which 3.x does not have"
        )
    if rows == own and layer != 'fc_cls':  # they serve all classes
        return tensor, ''
    expected = own * ((heads.classes or 0) + 1)
    if rows != expected:
        raise _unrecognised(
            f'{key} has {rows} rows; with the classes of fc_cls, MMDetection v1 has '
            f'{expected}'
        )
    if layer == 'fc_cls':
        return tensor.roll(-1, 0), 'background moved to the last row'
    what = '4 rows' if layer == 'fc_reg' else 'channel'
    return tensor[own:].clone(), f"background's {what} dropped"


def _unrecognised(reason: str) -> WeightsError:
    message = f'{reason}. Nothing was converted.'
    return WeightsError(message, code='checkpoint-unrecognised')


def _target_layout(found: Architecture, to: str) -> key_maps.Layout:
    """Return the layout to write; raise if the target has no such network."""
    small = found.family == 'MobileNetV2'
    deep = len(found.stem) > 1
    other_stem = deep or found.stem_kernel != 7
    pooled = found.shortcut in ('average pool + convolution', 'mixed')
    layout = {
        'mmdet': key_maps.MMDET,
        'authors': key_maps.MOBILENET_V2 if small else key_maps.AUTHORS,
        'timm': key_maps.TIMM_DEEP_STEM if deep else key_maps.TIMM,
    }[to]
    gates = found.gate.split(' + ') if found.gate else []
    lacking = [gate for gate in gates if gate not in layout.gates]
    if lacking:
        reason = (
            f'{to} has no {lacking[0]} gates; convert to mmdet, or load the file as it '
            'is.'
        )
    elif to == 'timm' and small:
        reason = 'timm has no MobileNetV2 with these names; --to authors.'
    elif to == 'authors' and not small and (other_stem or pooled):
        parts = 'three 3x3 convolutions' if other_stem else 'average pools before those'
        reason = (
            "the authors' ResNet has a 7x7 stem, and plain convolutions as shortcuts; "
            f'this file has {parts}. Convert it to mmdet (backbone ECAResNetD) or timm.'
        )
    else:
        return layout
    raise WeightsError(reason, code='unsupported-model')


@dataclass(frozen=True)
class ConvertedFile:
    """A checkpoint written by :func:`convert_weights`."""

    file: Path
    report: ConvertReport
    metadata: dict[str, str]  # text entries of the new checkpoint
    left_out: tuple[str, ...]  # the source's entries beside its tensors

    def to_dict(self) -> dict[str, Any]:
        """Return the report and the metadata for JSON."""
        return self.report.to_dict() | {'metadata': self.metadata}


def convert_weights(
    source: str | Path,
    target: str | Path,
    to: str = 'mmdet',
    force: bool = False,
    trust: Iterable[str] = (),
    v1_retinanet: bool = False,
    key: str = '',
) -> ConvertedFile:
    """Rename the tensors of a checkpoint; each is mapped or reported as dropped.

    Args:
        source: path, or an https:// or hf:// address.
        target: file to write, .safetensors or .pth.
        to: 'mmdet', 'authors' or 'timm'.
        force: replace ``target`` if it exists.
        trust: 'MODULE.CLASS' names that reading the file may use.
        v1_retinanet: a RetinaNet is of MMDetection v1, which its names do not show.
        key: entry or prefix of the tensors, where the source has several sets. A
            detector of MMDetection 2.x or 3.x keeps its config and class names.

    Example:
        >>> import eca_mmdet
        >>> done = eca_mmdet.convert_weights('eca_resnet18.pth', 'new.safetensors')
        >>> done.report.source, sorted(done.report.dropped)
        ('authors', ['fc.bias', 'fc.weight'])
    """
    path, target, address = local_file(source), Path(target), str(source)
    if is_address(address):  # without user name, password and query
        parts = urllib.parse.urlsplit(address)
        host = parts.netloc.rpartition('@')[2]
        address = parts._replace(netloc=host, query='').geturl()
    file = read_checkpoint(path, trust, key)
    require_values(path, file.state)
    if target.exists() and target.samefile(path):
        raise WeightsError(
            f'{target} is the source itself; write to another name.',
            code='output-exists',
        )
    try:
        if file.metadata.get('layout') == _V3 and to == 'mmdet':
            raise WeightsError(
                'converted to MMDetection 3.x already; nothing to do.',
                code='checkpoint-mismatch',
            )
        state, report = convert(file.state, to, v1_retinanet, file.extras, bool(key))
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}', code=error.code) from error
    if report.target.startswith('MMDetection') and target.suffix == '.safetensors':
        raise WeightsError(
            f'{target}: mmengine loads whole detectors from .pth files only; write to '
            'a name in .pth.',
            code='unsupported-format',
        )
    metadata = {
        'network': report.network,
        'layout': report.target,
        'kernel_sizes': ','.join(map(str, report.kernel_sizes or ())),
        'source': address,
        'source_sha256': file.sha256,
    }
    if report.classes:
        metadata['classes'] = str(report.classes)
    kept = file.meta if report.target == report.source else {}
    write_weights(target, state, metadata, force, kept)
    return ConvertedFile(target, report, metadata, tuple(map(str, file.extras)))
