"""Loading of configs, building of their models, and training options in them."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from eca_mmdet import compat, registration
from eca_mmdet.catalog.configs import resolve_config
from eca_mmdet.checkpoints.embedded_config import (
    parse_config,
    registered,
    require_registered,
    use_registered_names,
)
from eca_mmdet.checkpoints.io import Checkpoint
from eca_mmdet.engine import distributed
from eca_mmdet.utils.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

logger = logging.getLogger(__name__)


def load_config(
    config: str | Path | Config,
    options: Sequence[str] = (),
    launcher: str = 'none',
    local_rank: int = 0,
    dist_timeout: int | None = None,
) -> Any:
    """Load a config by shipped name or path, and apply overrides.

    >>> import eca_mmdet
    >>> name = 'retinanet_eca-r50_fpn_4xb2-1x_coco'
    >>> cfg = eca_mmdet.load_config(name, ['train_dataloader.batch_size=4'])
    >>> cfg.model.type, cfg.train_dataloader.batch_size
    ('RetinaNet', 4)

    Args:
        config: shipped name (``eca-mmdet configs``), or a file. It is Python and runs.
            A loaded config is copied.
        options: overrides as ``KEY=VALUE``, as mmdet's ``--cfg-options``.
        launcher: what started the processes of this job: 'none', 'pytorch', 'slurm'
            or 'mpi'.
        local_rank: of this process on its machine, where the launcher sets none.
        dist_timeout: seconds that a process waits for the others.

    Raises:
        UserError: the config does not exist or does not parse, an override does not
            fit, or the launcher did not start this process.
    """
    loaded = None if isinstance(config, (str, os.PathLike)) else config
    path = resolve_config(str(config)) if loaded is None else loaded.filename
    distributed.require_launcher(launcher)
    forbid_code_in_files()
    registration.register()
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    from mmengine.config import Config

    try:
        with compat.skipping_metafiles():
            cfg = copy.deepcopy(loaded) if loaded else Config.fromfile(str(path))
        use_registered_names(list(cfg.values()))  # of a pure-Python config
    except Exception as error:  # a config is code: it may raise anything
        reason = f'{type(error).__name__}: {error}'
        if 'non-"lazy_import"' in reason:  # mmengine's sentence does not name both
            reason = (
                'one of the files that it inherits from is a pure-Python config, or it '
                'is one itself and they are not. To write one as plain values: '
                "eca_mmdet.load_config('FILE').dump('NEW.py')"
            )
        raise UserError(
            f'{path} is not a config that mmengine reads: {reason}',
            code='config-invalid',
        ) from error
    cfg.default_scope = cfg.get('default_scope') or 'mmdet'  # None beside classes
    cfg.launcher = launcher
    try:
        cfg.merge_from_dict(parse_options(options))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(
            f'--cfg-options {" ".join(options)} does not fit {path}: {error}',
            code='option-invalid',
        ) from error
    distributed.set_timeout(cfg, dist_timeout)
    return cfg


def embedded_config(file: Checkpoint, data: bool = False) -> Config:
    """Return the config that mmengine saved in a checkpoint; nothing of it is run.

    With ``data``, the classes of its test data are known as well.
    """
    if not file.config.strip():
        raise UserError(
            f'{file.path} has no config in it, so its architecture is unknown: only '
            'checkpoints that mmengine saves in training embed one. Name the config: '
            f'{"eca-mmdet test CONFIG CHECKPOINT" if data else "--config NAME|FILE"}.',
            code='checkpoint-incomplete',
        )
    return plain_config(parse_config(file.config, file.path), file.path, data)


def plain_config(values: dict[str, Any], path: str, data: bool = False) -> Config:
    """Return mmengine's Config of untrusted values from ``parse_config``.

    Checkpoints that the model's parts would start from are removed from ``values``.
    """
    from mmengine.config import Config

    drop_init(values.get('model'))  # what they name is not built
    require_registered(values, path, data)
    try:
        return Config(values)
    except (KeyError, TypeError) as error:  # a key that mmengine keeps for itself
        raise UserError(
            f'mmengine cannot read the config in {path}: {error}',
            code='config-invalid',
        ) from error


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Turn KEY=VALUE strings into a dict, values as mmdet's ``--cfg-options`` reads."""
    from mmengine.config import DictAction

    for option in options:
        if '=' not in option:
            raise UserError(
                f'--cfg-options takes KEY=VALUE, for example '
                f'train_dataloader.batch_size=4; got {option!r}.',
                code='option-invalid',
            )
    found = SimpleNamespace()
    DictAction([], 'options')(None, found, options)
    return dict(found.options)


def forbid_code_in_files() -> None:
    """Make every ``torch.load`` of this process and its children load only tensors.

    onedl-mmengine falls back to unpickling whatever a file asks for, with a warning;
    PyTorch's own switch forbids that, whoever loads.
    """
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0') not in ('', '0'):
        raise UserError(
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: it lets files run code, which '
            'this package never allows. Unset it; a trusted file that is refused can '
            'be converted once: eca-mmdet weights convert FILE NEW --trust NAME.',
            code='checkpoint-unsafe',
        )
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


def silence_known_warnings() -> None:
    """Hide third-party warnings that a user can do nothing about."""
    for message in (
        'Failed to search registry with scope',  # mmengine, on its own hooks
        '__floordiv__ is deprecated',  # mmdet, on torch
        'torch.meshgrid: in an upcoming release',  # mmdet, on torch
        'torch.utils.checkpoint: the use_reentrant',  # mmdet, with_cp=True
        'Setting (OMP|MKL)_NUM_THREADS environment',  # mmengine, on what it sets
        '`broadcast_buffers` is deprecated',  # torch, on mmengine's wrapper
    ):
        warnings.filterwarnings('ignore', f'.*{message}')


def require_sections(cfg: Any, training: bool) -> None:
    """Reject a file that parses but is not a detector config."""
    if training and cfg.get('test_time_only'):
        raise UserError(
            f'{cfg.filename} is only for testing: {cfg.test_time_only}',
            code='config-invalid',
        )
    needed = ['model', 'test_dataloader', 'test_evaluator']
    if training:
        needed = ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper']
    missing = [key for key in needed if not cfg.get(key)]
    if missing:
        raise UserError(
            f'{cfg.filename} is not a detector config: it has no {", ".join(missing)}. '
            'Inherit a shipped config (eca-mmdet configs).',
            code='config-invalid',
        )
    for use in ('val', 'test'):
        names = [f'{use}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        absent = [name for name in names if cfg.get(name) is None]
        if absent and len(absent) < len(names):
            raise UserError(
                f'{", ".join(names)} belong together: set all or none of them. '
                f'{cfg.filename} has no {", ".join(absent)}.',
                code='config-invalid',
            )


def build_model(cfg: Any, device: str = 'cpu', source: str = '') -> Any:
    """Build the detector of a config; its weights are not initialised.

    >>> import eca_mmdet
    >>> cfg = eca_mmdet.load_config('retinanet_eca-r50_fpn_4xb2-1x_coco')
    >>> model = eca_mmdet.build_model(cfg, 'meta')
    >>> sum(p.numel() for p in model.parameters())
    37968772

    Args:
        cfg: a config with ``model``.
        device: 'meta' builds it without memory and values.
        source: name of the config in messages; default: its file.

    Raises:
        UserError: a part cannot be built, or computes with values in its constructor,
            which the meta device does not have.
    """
    registration.register()
    silence_known_warnings()
    import torch
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    source = source or str(cfg.filename)
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{source} has no model.', code='config-invalid')
    scope = cfg.get('default_scope', 'mmdet')
    if not isinstance(scope, str):
        raise UserError(
            f'{source}: default_scope must be text; got {scope!r}.',
            code='config-invalid',
        )
    init_default_scope(scope)
    try:
        with torch.device(device):
            model = MODELS.build(cfg.model)
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f'{cfg.model.get("type")} is not a detector')
        return model
    except Exception as error:  # a part may raise anything on wrong arguments
        on_meta = device == 'meta'
        if on_meta and isinstance(error, (RuntimeError, NotImplementedError)):
            raise UserError(
                f'{source}: this model cannot be built without memory, which the '
                f'count needs: {error}',
                code='unsupported-model',
            ) from error
        raise UserError(
            f'the model that {source} describes cannot be built: '
            f'{type(error).__name__}: {error}',
            code='config-invalid',
        ) from error


def drop_init(part: Any) -> None:
    """Remove ``init_cfg`` and ``pretrained`` at any depth of a model's config."""
    for _, node in parts(part, ''):
        for key in ('init_cfg', 'pretrained'):
            if node.get(key) is not None:
                node[key] = None


def parts(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (config path, dict) of every dict, at any depth."""
    if isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from parts(item, f'{path}.{index}')
    elif isinstance(node, dict):
        yield path, node
        for name, value in node.items():
            yield from parts(value, f'{path}.{name}')


def type_name(entry: Any) -> str:
    """Return the ``type`` of a config entry without its registry scope."""
    return str(entry.get('type')).rpartition('.')[2]


def evaluators(cfg: Any, use: str) -> list[Any]:
    """Return the configs of the metrics of 'val' or 'test', however they are nested."""
    entry = cfg.get(f'{use}_evaluator') or []
    if isinstance(entry, dict):
        entry = entry.get('metrics', entry)
    return list(entry) if isinstance(entry, (list, tuple)) else [entry]


def initializes_backbone(cfg: Any) -> bool:
    """Return whether the backbone starts from the detector in ``load_from`` by itself.

    An ``ECAPretrained`` of the same file then decides which of its layers start new.
    """
    init = (cfg.model.get('backbone') or {}).get('init_cfg')
    if not isinstance(init, dict) or type_name(init) != 'ECAPretrained':
        return False
    return bool(cfg.get('load_from')) and init.get('checkpoint') == cfg.load_from


def leaf_datasets(loader: Any) -> list[Any]:
    """Return the datasets of a data loader, inside RepeatDataset, ConcatDataset etc."""
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    if not isinstance(dataset, dict):
        return []
    if isinstance(dataset.get('dataset'), dict):
        return leaf_datasets(dataset)
    several = dataset.get('datasets')
    if isinstance(several, (list, tuple)) and several:
        return [leaf for part in several for leaf in leaf_datasets({'dataset': part})]
    return [dataset]


def class_names(cfg: Any, loader: str = 'train_dataloader') -> tuple[str, ...] | None:
    """Return the class names of the data loader's first dataset.

    None where the dataset takes them from its annotation file, or is not known.
    """
    for dataset in leaf_datasets(cfg.get(loader)):
        return dataset_classes(dataset, loader)
    return None


def dataset_classes(dataset: Any, loader: str) -> tuple[str, ...] | None:
    """Return the class names of one dataset's config; see :func:`class_names`.

    They are those of ``metainfo.classes``, or of its type. ``loader`` is for messages.
    """
    metainfo, kind = dataset.get('metainfo'), dataset.get('type')
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
    if classes is None:
        known = kind if isinstance(kind, type) else registered(kind, 'DATASETS')
        classes = (getattr(known, 'METAINFO', None) or {}).get('classes')
    if classes is None:
        return None
    if isinstance(classes, str) and os.path.isfile(classes):
        return tuple(Path(classes).read_text().split('\n'))  # as mmengine reads it
    several = isinstance(classes, (list, tuple))
    if not several or not all(isinstance(name, str) for name in classes):
        raise UserError(
            f'{loader}.dataset.metainfo.classes must be a tuple of names; got '
            f"{classes!r}. One class is written ('NAME',) with a comma.",
            code='config-invalid',
        )
    return tuple(classes)


def set_work_dir(cfg: Any, work_dir: str | Path | None) -> None:
    """Apply mmdet's order: the argument, the config's own, ``work_dirs/NAME``."""
    if work_dir:
        cfg.work_dir = str(work_dir)
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename or 'config').stem)


def set_randomness(cfg: Any, seed: int | None, deterministic: bool) -> None:
    """Write the caller's choices over the config's ``randomness``.

    Without any seed mmengine draws one. ``deterministic`` uses only PyTorch's
    deterministic algorithms: an operator without one ends the run, so that a difference
    in the weights is never silent.
    """
    randomness = cfg.get('randomness') or {}
    if not isinstance(randomness, dict):
        raise UserError(
            f'randomness of {cfg.filename} must be a dict; got {randomness!r}.',
            code='config-invalid',
        )
    randomness = dict(randomness)
    if seed is not None:
        randomness['seed'] = seed
    if deterministic:
        randomness['deterministic'] = True
        # cuBLAS reads it when the first CUDA context is made; PyTorch asks for it.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    if randomness:
        randomness.setdefault('seed', None)  # mmengine's argument has no default
        cfg.randomness = randomness


def start_from_scratch(cfg: Any) -> None:
    """Drop the backbone's weights, and thaw what is frozen because of them."""
    backbone = cfg.model.backbone
    backbone.init_cfg = None
    for key, value in (('frozen_stages', -1), ('norm_eval', False)):
        if key in backbone:  # other families have no such argument
            backbone[key] = value


def use_amp(cfg: Any, dtype: str | None = None) -> None:
    """Switch to mixed precision, in the given type or that of the config or device."""
    from mmengine.device import get_device

    if dtype not in (None, 'bfloat16', 'float16'):
        raise UserError(
            f"--amp-dtype must be 'bfloat16' or 'float16'; got {dtype!r}.",
            code='option-invalid',
        )
    if dtype == 'float16' and get_device() == 'cpu':
        raise UserError(
            '--amp-dtype float16 needs a GPU, and PyTorch sees none. CPUs train in '
            'bfloat16.',
            code='no-gpu',
        )
    cfg.optim_wrapper.type = 'MixedPrecisionOptimWrapper'
    if dtype:
        cfg.optim_wrapper.dtype = dtype


def images_per_step(cfg: Any) -> int:
    """Return processes x batch x accumulated steps."""
    world = distributed.count_processes(cfg.launcher)
    batch = cfg.train_dataloader.get('batch_size') or 1
    accumulation = cfg.optim_wrapper.get('accumulative_counts', 1)
    return int(world * batch * accumulation)


def apply_lr_policy(cfg: Any, scale: bool) -> None:
    """Scale the learning rate to the images per step, and log it in one line.

    The config's rate is meant for ``auto_scale_lr.base_batch_size`` images. mmengine's
    own scaling does not count accumulated steps: it is switched off, and the scaled
    rate is written into the config.
    """
    policy = cfg.get('auto_scale_lr') or {}
    base = policy.get('base_batch_size')
    optimizer: Any = cfg.optim_wrapper.get('optimizer') or {}
    lr = optimizer.get('lr')
    step = images_per_step(cfg)
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=base or step)
    if lr is None:
        return
    if cfg.get('resume'):
        line = 'lr continues from the checkpoint'
    elif not scale:
        line = f'lr {lr:g} as written: {step} images a step'
        line += f', config made for {base}' if base else ''
    elif base is None:
        line = f'lr {lr:g} as written: the config names no base batch size'
    else:
        scaled = lr * step / base
        optimizer.lr = scaled
        line = f'lr {lr:g} -> {scaled:g}: {step} of {base} images a step'
    logger.info(line)
