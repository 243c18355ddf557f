"""The initializer that the configs use for backbone weights."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath

from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from eca_mmdet.attention import GATES
from eca_mmdet.errors import WeightsError
from eca_mmdet.weights.architecture import differences, read_architecture
from eca_mmdet.weights.fetch import fetch
from eca_mmdet.weights.file_names import (
    FileNames,
    as_in_file,
    file_names_of,
    origin_in_file,
)
from eca_mmdet.weights.files import WeightFile, read_weights
from eca_mmdet.weights.heads import read_heads
from eca_mmdet.weights.inspection import classes_of, origin_of
from eca_mmdet.weights.layouts import Canonical, is_known, to_canonical

_MODES = ('gates', 'all', 'off')


@dataclass
class Fit:
    """How a file's tensors and a backbone's meet.

    Attributes:
        weights: tensors to copy, by the backbone's names.
        origin: e.g. 'eca_resnet50_k3557 (authors, ImageNet)'.
        problems: why the file does not fit; one sentence each.
        missing: the backbone's tensors that the file lacks, gates left out.
        unused: the file's tensors that the backbone lacks.
        gates: the backbone's gate modules to whether the file has all their tensors.
        tensors: number of the backbone's tensors that are not of gates.
    """

    weights: dict[str, Tensor]
    origin: str
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    gates: dict[str, bool] = field(default_factory=dict)
    tensors: int = 0

    @property
    def line(self) -> str:
        """'318/318 tensors, 16/16 gates from …', and what stayed behind."""
        loaded = self.tensors - len(self.missing)
        line = f'{loaded}/{self.tensors} tensors'
        if self.gates:
            line += f', {sum(self.gates.values())}/{len(self.gates)} gates'
        line += f' from {self.origin}'
        for title, names in (('new', self.missing), ('not used', self.unused)):
            if names:
                line += f'; {len(names)} {title}: {_first(names)}'
        return line


@WEIGHT_INITIALIZERS.register_module()
class ECAPretrained:
    """Recognise a file of weights, convert it and load it; or say why it does not fit.

    mmengine's ``Pretrained`` loads with ``strict=False`` and warns: gates of another
    kernel size, or of a file without gates, stay random. Here that is an error.

    Args:
        checkpoint: local path; ``http(s)://``, ``torchvision://resnet50`` or
            ``hf://timm/ecaresnet50d.miil_in1k``. Any layout that ``eca-mmdet weights
            inspect`` knows: the ECA authors', timm's, torchvision's, mmpretrain's, or
            an MMDetection detector, whose backbone is taken. A backbone that declares
            ``file_names`` (``TimmBackbone``) takes a file in its own names alone.
        strict: 'gates': every gate and every tensor of the plain network must come
            from the file; layers that no such file has (a non-local block, offsets of
            a deformable convolution) start new, and the log names them. 'all': every
            tensor must, and the file may have none left over. 'off': what fits is
            loaded, the log says what was not. With ``file_names`` all but the gates is
            the plain network.
        random_gates: the file may lack gates (a plain ResNet): they start random.
        random_frozen_gates: as well where ``frozen_stages`` keeps them from training.

    Raises:
        MissingWeightsError: the file is not there, or cannot be downloaded.
        WeightsError: it is no file of weights, or it does not fit.
    """

    def __init__(
        self,
        checkpoint: str,
        strict: str = 'gates',
        random_gates: bool = False,
        random_frozen_gates: bool = False,
    ) -> None:
        if strict not in _MODES:
            raise WeightsError(
                f'strict must be one of {", ".join(map(repr, _MODES))}; got {strict!r}.'
            )
        if not isinstance(checkpoint, (str, PurePath)):
            raise WeightsError(
                f'checkpoint must be a path or an address; got {checkpoint!r}.'
            )
        self.checkpoint = str(checkpoint)
        self.strict = strict
        self.random_gates = random_gates or random_frozen_gates
        self.random_frozen_gates = random_frozen_gates

    def __call__(self, module: nn.Module) -> None:
        """Copy the file's tensors into ``module``; all or, if it is refused, none."""
        fit = self.fit(module)
        # mmengine runs the children's own initialisation after any initializer that
        # is not called 'Pretrained': a deformable convolution's, or mmcv's ConvModule's
        # (no BaseModule), would overwrite this. So it is run now, where layers are new,
        # and marked as done.
        in_mmengine = hasattr(module, '_params_init_info')
        for child in module.children() if fit.missing and in_mmengine else ():
            if hasattr(child, 'init_weights'):
                child.init_weights()  # type: ignore[operator]
        for child in module.modules():
            if child is not module and hasattr(child, 'init_weights'):
                child.is_init = True  # type: ignore[assignment]
        module.load_state_dict(fit.weights, strict=False)
        complete = not fit.missing and not fit.unused and all(fit.gates.values())
        print_log(
            fit.line + _random_note(fit),
            logger='current',
            level=logging.INFO if complete else logging.WARNING,
        )

    def fit(self, module: nn.Module) -> Fit:
        """Read the file and hold it against ``module``, whose values stay.

        Args:
            module: the backbone; it may be on the meta device.

        Raises:
            MissingWeightsError: the file is not there, or cannot be downloaded.
            WeightsError: it is no file of weights, or it does not fit.
        """
        if hasattr(module, 'backbone'):
            raise WeightsError(
                f'ECAPretrained initialises a backbone; got a {type(module).__name__}. '
                'Set model.backbone.init_cfg; a whole detector is loaded by load_from.'
            )
        file = read_weights(fetch(self.checkpoint))
        names = file_names_of(module)
        canonical = as_in_file(file.state, names) if names else to_canonical(file.state)
        fit = _compare(canonical, module)
        name = PurePosixPath(self.checkpoint).name.split('.pth')[0]
        origin = _origin(canonical, file, names is not None)
        fit.origin = f'{name.removesuffix(".safetensors")} {origin}'
        if self.strict != 'off':
            self._judge(fit, canonical, module)
        if fit.problems:
            raise WeightsError(
                f'{self.checkpoint} does not fit this {type(module).__name__}: '
                + '; '.join(fit.problems)
            )
        return fit

    def _judge(self, fit: Fit, canonical: Canonical, module: nn.Module) -> None:
        """Add to ``fit.problems`` what the arguments do not allow."""
        own_state = module.state_dict()
        # In its own names a backbone is compared tensor by tensor, in full.
        named = file_names_of(module) is not None
        own = None if named else read_architecture(own_state)
        theirs = read_architecture(canonical.backbone)
        if own and theirs:
            fit.problems += differences(theirs, own)
        elif own:
            names = _first(list(canonical.source.values()))
            fit.problems.append(f'the file is no ResNet or MobileNetV2: {names}')
        # The rest would repeat the same difference, tensor by tensor.
        if not fit.problems:
            fit.problems += _key_problems(fit, canonical, module, own is None)
        if not fit.problems:
            self._judge_gates(fit, module)
        if not fit.problems:
            fit.problems += _value_problems(fit.weights, own_state)
        if self.strict == 'all' and not fit.problems:
            for left, title in (
                (fit.missing, 'tensors of the backbone are not in the file'),
                (fit.unused, 'tensors of the file are not in the backbone'),
            ):
                if left:
                    fit.problems.append(f'{len(left)} {title}: {_first(left)}')

    def _judge_gates(self, fit: Fit, module: nn.Module) -> None:
        absent = [name for name, complete in fit.gates.items() if not complete]
        if absent and not self.random_gates:
            fit.problems.append(
                f'{len(absent)} of {len(fit.gates)} gates would stay random, the file '
                f'has none for them: {_first(absent)}. If it is meant to be a plain '
                'network without gates, set init_cfg.random_gates=True'
            )
        frozen = [name for name in absent if _is_frozen(module, name)]
        if frozen and self.random_gates and not self.random_frozen_gates:
            stages = getattr(module, 'frozen_stages', None)
            fit.problems.append(
                f'{len(frozen)} random gates are in frozen stages (frozen_stages='
                f'{stages}) and would never train: {_first(frozen)}. Set '
                'frozen_stages=0, which freezes the stem alone; or '
                'init_cfg.random_frozen_gates=True to have it so'
            )

    def _get_init_info(self) -> str:
        """Say for mmengine's record where the values come from."""
        return f'{type(self).__name__}: load from {self.checkpoint}'


def _compare(canonical: Canonical, module: nn.Module) -> Fit:
    """Sort the names of both sides; nothing is judged yet."""
    own, theirs = module.state_dict(), canonical.backbone
    names = file_names_of(module)
    gates = {
        name: list(gate.state_dict(prefix=f'{name}.'))
        for name, gate in module.named_modules()
        if isinstance(gate, GATES) or (names and name in names.gates)
    }
    of_gates = {key for keys in gates.values() for key in keys}
    weights = {
        key: tensor
        for key, tensor in theirs.items()
        if key in own and own[key].shape == tensor.shape
    }
    # PyTorch before 0.4.1 did not count batches; the counter is not used.
    uncounted = {
        key for key in own if key not in theirs and key.endswith('num_batches_tracked')
    }
    plain = [key for key in own if key not in of_gates and key not in uncounted]
    return Fit(
        weights,
        '',
        missing=[key for key in plain if key not in weights],
        unused=[canonical.source[key] for key in theirs if key not in own],
        gates={
            name: all(key in weights for key in keys) for name, keys in gates.items()
        },
        tensors=len(plain),
    )


def _key_problems(
    fit: Fit, canonical: Canonical, module: nn.Module, unknown_backbone: bool
) -> list[str]:
    """List tensors that the same network should share, and does not."""
    own, theirs = module.state_dict(), canonical.backbone
    shapes = [
        f'{key} (file {tuple(theirs[key].shape)}, backbone {tuple(own[key].shape)})'
        for key in own
        if key in theirs and key not in fit.weights
    ]
    needed = [
        key
        for key in fit.missing
        if key not in theirs and (unknown_backbone or _is_needed(key))
    ]
    # A gate of which the file has a part, or a bias that the backbone has no place for:
    # the layer is in both, and would compute something else.
    partial = [
        key
        for gate, complete in fit.gates.items()
        for key in own
        if not complete and key.startswith(f'{gate}.') and key not in theirs
        if any(other.startswith(f'{gate}.') for other in theirs)
    ]
    names = file_names_of(module)
    homeless = _homeless(canonical, own, names)
    both = '' if names else 'of layers that both have '
    return [
        f'{len(keys)} tensors {title}: {_first(keys)}'
        for keys, title in (
            (shapes, 'have another shape'),
            (needed + partial, 'are not in the file'),
            (homeless, f'{both}are not in the backbone'),
        )
        if keys
    ]


def _homeless(
    canonical: Canonical, own: dict[str, Tensor], names: FileNames | None
) -> list[str]:
    """Return the file's tensors that the backbone needs a place for, and has none."""
    layers = {_layer(key) for key in own}
    return [
        canonical.source[key]
        for key in canonical.backbone
        if key not in own
        if (names.is_stray(key) if names else _layer(key) in layers)
    ]


def _layer(key: str) -> str:
    return key.rpartition('.')[0]


def _is_needed(key: str) -> bool:
    """Tell whether a tensor is of the plain network: a public name, or any norm."""
    norm = r'((layer\d+\.\d+|stem)\.)?[a-z]*n\d\.\w+'  # 'gn1', 'layer1.0.sbn2'
    return is_known(key) or re.fullmatch(norm, key) is not None


def _value_problems(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """List tensors whose values cannot be weights."""
    integers = [
        f'{key} ({str(tensor.dtype)[6:]})'
        for key, tensor in weights.items()
        if own[key].is_floating_point() and not tensor.is_floating_point()
    ]
    broken = [
        key
        for key, tensor in weights.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    return [
        f'{len(names)} tensors {title}: {_first(names)}'
        for names, title in (
            (integers, 'are no floating-point numbers'),
            (broken, 'hold NaN or infinity'),
        )
        if names
    ]


def _is_frozen(module: nn.Module, gate: str) -> bool:
    """Tell whether training leaves a gate as it is."""
    stage = re.match(r'layer(\d+)\.', gate)
    if stage and int(stage[1]) <= getattr(module, 'frozen_stages', -1):
        return True  # mmdet's MobileNetV2 freezes only when training starts
    parameters = module.get_submodule(gate).parameters()
    return not any(parameter.requires_grad for parameter in parameters)


def _origin(canonical: Canonical, file: WeightFile, named: bool) -> str:
    """Return '(authors, ImageNet)' and the like."""
    found = read_architecture(canonical.backbone)
    heads = read_heads(file.state, file.extras)
    if named:
        return origin_in_file(canonical, heads)
    if found is None:
        return '(unknown layout)'
    classes = classes_of(canonical, heads)
    trained = f'{classes} classes' if classes else ''
    if heads:
        return f'({heads.detector} of {origin_of(canonical, found, heads)}, {trained})'
    trained = 'ImageNet' if classes == 1000 else trained
    return f'({", ".join(filter(None, (origin_of(canonical, found), trained)))})'


def _random_note(fit: Fit) -> str:
    random = len(fit.gates) - sum(fit.gates.values())
    return f'; {random} gates start random' if random else ''


def _first(names: list[str], count: int = 3) -> str:
    more = ', ...' if len(names) > count else ''
    return ', '.join(names[:count]) + more
