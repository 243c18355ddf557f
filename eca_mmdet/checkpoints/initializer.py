"""Initializer that loads backbone weights: ``ECAPretrained``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

from mmengine.logging import MMLogger
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from eca_mmdet import compat
from eca_mmdet.catalog.mechanisms import ADDING_LAYERS
from eca_mmdet.checkpoints.download import fetch
from eca_mmdet.checkpoints.identify import (
    Recognised,
    differences,
    read_architecture,
    recognise,
    same_filters,
)
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.checkpoints.key_maps import Canonical, is_known
from eca_mmdet.checkpoints.transfer import counted, other_shapes
from eca_mmdet.models.attention.fcanet import FcaNet
from eca_mmdet.models.attention.gate import Gate
from eca_mmdet.models.initialization import file_names_of
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import first

_MODES = ('gates', 'all', 'off')


@dataclass
class Fit:
    """Comparison of a file's tensors with a backbone's."""

    weights: dict[str, Tensor]  # to copy, by the backbone's names
    missing: list[str]  # in the file, gates excepted
    unused: list[str]  # of the file's tensors
    gates: dict[str, bool]  # the backbone's, and whether the file has all their tensors
    tensors: int  # in the backbone outside gates
    bare_gates: int  # gates without weights
    origin: str = ''  # e.g. 'eca_resnet50_k3557 (authors, ImageNet)'

    @property
    def line(self) -> str:
        """'318/318 tensors, 16/16 gates from …', and which did not fit."""
        loaded = self.tensors - len(self.missing)
        line = f'{loaded}/{self.tensors} tensors'
        if self.gates:
            line += f', {sum(self.gates.values())}/{len(self.gates)} gates'
        line += f' from {self.origin}'
        if self.bare_gates:
            line += f'; {self.bare_gates} gates have no weights'
        for title, names in (('new', self.missing), ('not used', self.unused)):
            if names:
                line += f'; {len(names)} {title}: {first(names)}'
        return line


@WEIGHT_INITIALIZERS.register_module()
class ECAPretrained:
    """Recognise, convert and load a checkpoint, or raise if it does not fit.

    mmengine's ``Pretrained`` loads with ``strict=False`` and warns: gates of another
    kernel size, or of a file without gates, stay random. Here that is an error.

    Args:
        checkpoint: local path; ``http(s)://``, ``torchvision://resnet50`` or
            ``hf://timm/ecaresnet50d.miil_in1k``. Any layout that ``eca-mmdet weights
            inspect`` knows: the ECA authors', timm's, torchvision's, mmpretrain's, or
            an MMDetection detector, whose backbone is taken. A backbone that declares
            ``file_names`` (``TimmBackbone``) takes only files in its own names.
        strict: 'gates': every gate and every tensor of the plain network must come
            from the file; layers that no such file has (a non-local block, offsets of
            a deformable convolution) start new, and the log names them. 'all': every
            tensor must, and the file may have no other. 'off': load what fits and log
            the rest. With ``file_names`` all but the gates is the plain network.
        random_gates: the file may lack gates (a plain ResNet): they start random.
        random_frozen_gates: as well where ``frozen_stages`` keeps them from training.
        key: entry or prefix of the tensors, where the file has several sets, such as
            an average: 'state_dict_ema', 'teacher'.
    """

    def __init__(
        self,
        checkpoint: str,
        strict: str = 'gates',
        random_gates: bool = False,
        random_frozen_gates: bool = False,
        key: str = '',
    ) -> None:
        if strict not in _MODES:
            fault = f'strict must be one of {str(_MODES)[1:-1]}; got {strict!r}.'
            raise WeightsError(fault, code='option-invalid')
        if not isinstance(checkpoint, (str, PurePath)):
            fault = f'checkpoint must be a path or an address; got {checkpoint!r}.'
            raise WeightsError(fault, code='option-invalid')
        self.checkpoint = str(checkpoint)
        self.strict, self.key = strict, key
        self.random_gates = random_gates or random_frozen_gates
        self.random_frozen_gates = random_frozen_gates

    def __call__(self, module: nn.Module) -> None:
        """Copy the file's tensors into ``module``; all, or none if it is rejected."""
        fit = self.fit(module)
        # mmengine runs the children's own initialisation after any initializer that
        # is not called 'Pretrained': a deformable convolution's, or mmcv's ConvModule's
        # (no BaseModule), would overwrite this. So it is run now, where layers are new,
        # and marked as done.
        in_mmengine = compat.is_inside_init_weights(module)
        for child in module.children() if fit.missing and in_mmengine else ():
            if hasattr(child, 'init_weights'):
                child.init_weights()  # type: ignore[operator]
        for child in module.modules():
            if child is not module and hasattr(child, 'init_weights'):
                compat.mark_initialized(child)
        module.load_state_dict(fit.weights, strict=False)
        complete = not fit.missing and not fit.unused and all(fit.gates.values())
        random = len(fit.gates) - sum(fit.gates.values())
        MMLogger.get_current_instance().log(
            logging.INFO if complete else logging.WARNING,
            fit.line + (f'; {random} gates start random' if random else ''),
        )

    def fit(self, module: nn.Module) -> Fit:
        """Compare the file with ``module``, without changing its values."""
        if hasattr(module, 'backbone'):
            raise WeightsError(
                f'ECAPretrained initialises a backbone; got a {type(module).__name__}. '
                'Set model.backbone.init_cfg; a whole detector is loaded by load_from.',
                code='config-invalid',
            )
        file = read_checkpoint(fetch(self.checkpoint), key=self.key)
        names = file_names_of(module)
        known = recognise(file.state, file.extras, names)
        canonical = known.canonical
        fit = _compare(canonical, module)
        name = PurePosixPath(self.checkpoint).name.split('.pth')[0]
        origin = _origin(known, named=names is not None)
        fit.origin = f'{name.removesuffix(".safetensors")} ({origin})'
        problems = []
        if self.strict != 'off':
            problems = self._problems(fit, known, module)
        elif _constant_problems(canonical, module):
            fit.unused += [canonical.source[key] for key in canonical.constants]
        if problems:
            raise WeightsError(
                f'{self.checkpoint} does not fit this {type(module).__name__}: '
                + '; '.join(problems),
                code='checkpoint-mismatch',
            )
        return fit

    def _problems(self, fit: Fit, known: Recognised, module: nn.Module) -> list[str]:
        """Return what the arguments do not allow, of the first kind that there is.

        The others would repeat the same difference, tensor by tensor.
        """
        # In its own names a backbone is compared tensor by tensor, in full.
        state, named = module.state_dict(), file_names_of(module) is not None
        own = None if named else read_architecture(state)
        if own and not known.network:
            shown = first(list(known.canonical.source.values()))
            return [f'the file is no ResNet or MobileNetV2: {shown}']
        problems = (
            (differences(known.network, own) if known.network and own else [])
            or _key_problems(fit, known.canonical, module, own is None)
            or self._gate_problems(fit, module)
            or _value_problems(fit.weights, state)
            + _constant_problems(known.canonical, module)
        )
        if self.strict == 'all' and not problems:
            return counted(
                (fit.missing, 'of the backbone are not in the file'),
                (fit.unused, 'of the file are not in the backbone'),
            )
        return problems

    def _gate_problems(self, fit: Fit, module: nn.Module) -> list[str]:
        problems = []
        absent = [name for name, complete in fit.gates.items() if not complete]
        if absent and not self.random_gates:
            problems.append(
                f'{len(absent)} of {len(fit.gates)} gates would stay random, the file '
                f'has none for them: {first(absent)}. If it is meant to be a plain '
                'network without gates, set init_cfg.random_gates=True'
            )
        frozen = [name for name in absent if _is_frozen(module, name)]
        if frozen and self.random_gates and not self.random_frozen_gates:
            stages = getattr(module, 'frozen_stages', None)
            problems.append(
                f'{len(frozen)} random gates are in frozen stages (frozen_stages='
                f'{stages}) and would never train: {first(frozen)}. Set '
                'frozen_stages=0, which freezes only the stem; or '
                'init_cfg.random_frozen_gates=True to have it so'
            )
        additions = [  # layers that add to the map, and start as zero
            name
            for name, layer in module.named_modules()
            if type(layer).__name__ in ADDING_LAYERS and _is_frozen(module, name)
            if any(key.startswith(f'{name}.') for key in fit.missing)
        ]
        if additions and not self.random_frozen_gates:
            problems.append(
                f'{len(additions)} new attention layers are in frozen stages and would '
                f'never do anything: {first(additions)}. Leave these stages out '
                "of the plugin's stages, or set frozen_stages=0"
            )
        return problems

    def _get_init_info(self) -> str:
        """Return the origin of the values for mmengine's log."""
        return f'{type(self).__name__}: load from {self.checkpoint}'


def _origin(known: Recognised, named: bool) -> str:
    """Return 'authors, ImageNet' and the like."""
    classes = f'{known.classes} classes' if known.classes else ''
    if not named and known.network is None:
        return 'unknown layout'
    if known.heads:
        return f'{known.heads.title}, {classes}'
    library = known.canonical.layout.origin if named else known.origin
    trained = 'ImageNet' if known.classes == 1000 else classes
    return ', '.join(filter(None, (library, trained)))


def _compare(canonical: Canonical, module: nn.Module) -> Fit:
    """Sort the names of both sides; nothing is judged yet."""
    own, theirs = module.state_dict(), canonical.backbone
    names = file_names_of(module)
    gates = {
        name: set(gate.state_dict(prefix=f'{name}.'))
        for name, gate in module.named_modules()
        if isinstance(gate, Gate) or (names and name in names.gates)
    }
    weights = {
        key: tensor
        for key, tensor in theirs.items()
        if key in own and own[key].shape == tensor.shape
    }
    # PyTorch before 0.4.1 did not count batches; the counter is not used.
    plain = [
        key
        for key in own
        if key in theirs or not key.endswith('num_batches_tracked')
        if not any(key in keys for keys in gates.values())
    ]
    return Fit(
        weights,
        missing=[key for key in plain if key not in weights],
        unused=[canonical.source[key] for key in theirs if key not in own],
        gates={name: weights.keys() >= keys for name, keys in gates.items() if keys},
        tensors=len(plain),
        bare_gates=sum(not keys for keys in gates.values()),
    )


def _key_problems(
    fit: Fit, canonical: Canonical, module: nn.Module, unknown_backbone: bool
) -> list[str]:
    """List tensors that two files of the same network would share."""
    own, theirs = module.state_dict(), canonical.backbone
    # Of the plain network: public names, and any norm ('gn1', 'layer1.0.sbn2').
    norm = re.compile(r'((layer\d+\.\d+|stem)\.)?[a-z]*n\d\.\w+')
    needed = [
        key
        for key in fit.missing
        if key not in theirs
        if unknown_backbone or is_known(key) or norm.fullmatch(key)
    ]
    # Part of a gate, or a bias without a place in the backbone: both have the layer,
    # which would compute something else.
    partial = [
        key
        for gate, complete in fit.gates.items()
        for key in own
        if not complete and key.startswith(f'{gate}.') and key not in theirs
        if any(other.startswith(f'{gate}.') for other in theirs)
    ]
    extra = [key for key in theirs if key not in own]
    if names := file_names_of(module):
        both, extra = '', [key for key in extra if names.part_of(key) != 'left_out']
    else:
        both, layers = 'of layers that both have ', {k.rpartition('.')[0] for k in own}
        extra = [key for key in extra if key.rpartition('.')[0] in layers]
    without_place = [canonical.source[key] for key in extra]
    return counted(
        (other_shapes(theirs, own, 'backbone'), 'have another shape'),
        (needed + partial, 'are not in the file'),
        (without_place, f'{both}are not in the backbone'),
    )


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
    return counted(
        (integers, 'are no floating-point numbers'), (broken, 'hold NaN or infinity')
    )


def _constant_problems(canonical: Canonical, module: nn.Module) -> list[str]:
    """List the file's constants that come from other arguments than the layer's."""
    modules = dict(module.named_modules())
    problems = []
    for key, theirs in canonical.constants.items():
        gate = modules.get(key.removesuffix('.filters'))
        if not isinstance(gate, FcaNet):
            continue
        ours = gate.filters()
        if ours.shape != theirs.shape:
            problems.append(
                f'{key}: file {tuple(theirs.shape)}, backbone {tuple(ours.shape)}; the '
                f'second number is the size of FcaNet: set size={theirs.shape[-1]}'
            )
        elif not same_filters(theirs, ours):
            problems.append(f'{key}: other frequencies than the backbone has')
    return problems


def _is_frozen(module: nn.Module, gate: str) -> bool:
    """Return whether training leaves a gate as it is."""
    stage = re.match(r'layer(\d+)\.', gate)
    if stage and int(stage[1]) <= getattr(module, 'frozen_stages', -1):
        return True  # mmdet's MobileNetV2 freezes only when training starts
    parameters = module.get_submodule(gate).parameters()
    return not any(parameter.requires_grad for parameter in parameters)
