"""Identification of a checkpoint from its tensor names and shapes only.

The file's own name, and what it says about itself ('arch': 'se_resnet50' in the ECA
authors' files), are shown but never believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eca_mmdet.checkpoints.dct_filters import unusual_constants
from eca_mmdet.checkpoints.detector import Heads, read_heads
from eca_mmdet.checkpoints.identify import (
    Architecture,
    classes_of,
    origin_of,
    read_architecture,
)
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.checkpoints.key_maps import Canonical, to_canonical
from eca_mmdet.checkpoints.suggestions import suggest_backbone, suggest_command
from eca_mmdet.utils.text import printable

_TITLES = {'authors': 'the ECA-Net authors', 'mmdet': 'mmdet backbones'}


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint file is.

    Attributes:
        path: where it was read.
        what: one line: network, purpose, whose names it uses.
        known: whether the network was recognised.
        kind: 'backbone', 'classifier', 'detector' or 'unknown'.
        origin: 'authors', 'torchvision', 'timm', 'mmpretrain', 'mmdet',
            'MMDetection v1', ... or ''.
        network: 'ECA-ResNet-50', ... or ''.
        depth: 18, 34, 50, 101, 152 or None.
        blocks: number of blocks a stage.
        block: 'basic', 'bottleneck' or 'inverted residual'.
        stem: e.g. '7x7, 64' or '3x3, 32-32-64'.
        shortcut: e.g. 'convolution' or 'average pool + convolution'.
        out_channels: of each stage.
        widths: of every convolution, [stage][block][convolution].
        gate: 'ECA', 'SE', 'FcaNet' or ''.
        gates: number of gates.
        kernel_sizes: of the ECA gates, one a stage; None where they differ in a stage.
        uniform: whether each stage has one kernel size.
        block_kernel_sizes: [stage][block].
        classes: of the classifier or the detector; background not counted.
        tensors: number of tensors in the file.
        dtypes: of the tensors.
        sha256: of the file.
        container: 'PyTorch' or 'safetensors'.
        wrapped: how the tensors lay in the file.
        beside: what lay beside them.
        metadata: text entries of the file.
        backbone: the mmdet backbone it fits, as config text; or ''.
        command: what to do with a shipped config that it fits; or ''.
        notes: what else a user must know.
    """

    path: str
    what: str
    known: bool
    kind: str
    origin: str = ''
    network: str = ''
    depth: int | None = None
    blocks: tuple[int, ...] = ()
    block: str = ''
    stem: str = ''
    shortcut: str = ''
    out_channels: tuple[int, ...] = ()
    widths: tuple[tuple[tuple[int, ...], ...], ...] = ()
    gate: str = ''
    gates: int = 0
    kernel_sizes: tuple[int | None, ...] | None = ()
    uniform: bool = True
    block_kernel_sizes: tuple[tuple[int | None, ...], ...] = ()
    classes: int | None = None
    tensors: int = 0
    dtypes: tuple[str, ...] = ()
    sha256: str = ''
    container: str = ''
    wrapped: str = ''
    beside: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    backbone: str = ''
    command: str = ''
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, ready for JSON."""
        return asdict(self)


def inspect(
    path: str | Path, trust: Iterable[str] = (), name: str | None = None
) -> Inspection:
    """Identify a checkpoint file.

    Args:
        path: local file.
        name: what the suggestions call it, such as the address it came from; the path
            itself by default.
        trust: as :func:`eca_mmdet.checkpoints.io.read_checkpoint`.

    Raises:
        WeightsError: it cannot be read. A readable file that is not recognised is no
            error: ``known`` is False and ``notes`` say what was found.
    """
    file = read_checkpoint(path, trust)
    beside = tuple(
        f'{printable(str(key))} {_brief(value)}' for key, value in file.extras.items()
    )
    wrapped = [f"under '{file.wrapper}'"] if file.wrapper else []
    wrapped += [f"'{file.prefix}' before every name"] if file.prefix else []
    about = identify(file.state, file.extras, name or str(path))
    return Inspection(
        path=name or str(path),
        tensors=len(file.state),
        dtypes=tuple(sorted({str(t.dtype)[6:] for t in file.state.values()})),
        sha256=file.sha256,
        container=file.container,
        wrapped=', '.join(wrapped),
        beside=beside,
        metadata=file.metadata,
        **about,
    )


def identify(
    state: Mapping[str, Tensor], extras: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return the part of :class:`Inspection` that the tensors tell.

    Args:
        state: as read.
        extras: what lay beside it.
        path: for the config text.
    """
    canonical = to_canonical(dict(state))
    found = read_architecture(canonical.backbone)
    heads = read_heads(state, extras)
    if found is None:
        return _unknown(canonical, heads)
    kind = 'detector' if heads else 'classifier' if canonical.classifier else 'backbone'
    origin = origin_of(canonical, found, heads)
    about: dict[str, Any] = dict(
        known=True,
        kind=kind,
        origin=origin,
        network=found.title,
        depth=found.depth,
        blocks=found.blocks,
        block=found.block,
        stem=f'{found.stem_kernel}x{found.stem_kernel}, '
        + '-'.join(map(str, found.stem)),
        shortcut=found.shortcut,
        out_channels=found.out_channels,
        widths=found.widths,
        gate=found.gate,
        gates=found.gates,
        kernel_sizes=found.stage_kernel_sizes if 'ECA' in found.gate else (),
        uniform=found.stage_kernel_sizes is not None,
        block_kernel_sizes=found.kernel_sizes if 'ECA' in found.gate else (),
        classes=classes_of(canonical, heads),
    )
    about['what'] = _what(about, heads)
    unusual = unusual_constants(canonical)
    about['backbone'] = '' if unusual else suggest_backbone(found, path)
    about['command'] = suggest_command(found, heads, path) if about['backbone'] else ''
    about['notes'] = (*_notes(canonical, found, heads), *unusual[:1])
    return about


def _what(about: Mapping[str, Any], heads: Heads | None) -> str:
    if heads:
        return f'{heads.detector} of {about["origin"]} on {about["network"]}'
    kind = about['kind']
    if kind == 'classifier' and about['classes'] == 1000:
        kind = 'ImageNet classifier'
    origin = _TITLES.get(about['origin'], about['origin'])
    return f'{about["network"]} {kind}, in the names of {origin}'


def _notes(
    canonical: Canonical, found: Architecture, heads: Heads | None
) -> tuple[str, ...]:
    notes = []
    if found.stage_kernel_sizes is None:
        notes.append('kernel sizes differ inside a stage: no backbone here has that.')
    if canonical.unknown:
        shown = ', '.join(canonical.unknown[:3])
        notes.append(
            f'{len(canonical.unknown)} backbone tensors of other layers: {shown}'
        )
    if heads and heads.version == 'v1':
        notes.append(
            'MMDetection v1 orders classes and codes boxes in other ways than 3.x. '
            'Convert it, and test it with a config of configs/legacy (docs/legacy.md); '
            'its backbone can be loaded as it is, as below.'
        )
    if heads and heads.detector == 'RetinaNet' and heads.version.startswith('v1,'):
        notes.append(
            'the names are the same in all three versions. If it was trained with '
            'MMDetection v1 (the released ECA detectors were): eca-mmdet weights '
            'convert --v1-retinanet, and a config of configs/legacy (docs/legacy.md).'
        )
    return tuple(notes)


def _unknown(canonical: Canonical, heads: Heads | None) -> dict[str, Any]:
    names = list(canonical.backbone)
    found = ', '.join(f'{n} {tuple(canonical.backbone[n].shape)}' for n in names[:4])
    return dict(
        what='unknown: neither a ResNet nor a MobileNetV2',
        known=False,
        kind='unknown',
        origin=f'MMDetection {heads.version}' if heads else '',
        classes=classes_of(canonical, heads),
        notes=(
            f'found {len(names)} tensors: {found}'
            + (', ...' if len(names) > 4 else ''),
            'expected names like conv1.weight or stem.0.weight or conv1.0.weight with '
            'layer1.0.conv1.weight, or features.1.conv.0.0.weight; before them nothing '
            "or 'module.' or 'backbone.'.",
        ),
    )


def _brief(value: Any) -> str:
    """Show a value beside the tensors in a few words, never in full."""
    if isinstance(value, Tensor):
        single = value.numel() == 1 and not value.is_meta
        return f'{value.item():g}' if single else str(tuple(value.shape))
    if isinstance(value, (int, float, bool)) or value is None:
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + '...')
    if isinstance(value, (dict, list, tuple)):
        return f'({len(value)} entries)'
    return f'({type(value).__name__})'
