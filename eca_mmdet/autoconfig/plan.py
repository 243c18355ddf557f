"""Configs for the user's own data: proposed, checked, and kept with a training."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eca_mmdet
from eca_mmdet.autoconfig import proposals, sections
from eca_mmdet.autoconfig.inputs import (
    Base,
    Data,
    Options,
    Start,
    open_some,
    read_base,
    read_inputs,
    read_start,
    resolve_model,
)
from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.catalog.mechanisms import find_mechanism
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.engine.checkpointing import find_checkpoint, require_no_checkpoints
from eca_mmdet.engine.config import class_names, load_config, require_sections
from eca_mmdet.engine.preflight import (
    check_backbone,
    check_backbone_weights,
    check_operators,
    give_attention,
    missing_numbers,
)
from eca_mmdet.utils.errors import FaultsError, UserError
from eca_mmdet.utils.io import write_texts
from eca_mmdet.utils.text import (
    Commented,
    assignment,
    comment,
    first,
    plural,
    printable,
)

MASKS, BOXES = 'mask-rcnn_eca-r50d', 'faster-rcnn_eca-r50d'
"""Default models for data with masks, and without; both have one start."""

FOLDER = 'init'
"""Folder of the configs in a work folder; mmengine dumps its own one level higher."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProposedConfig:
    """A config for the user's data.

    Attributes:
        text: text of the config file; write it as UTF-8, which mmengine reads.
        base: shipped config that it inherits.
        classes: class names in the order of the labels.
    """

    text: str
    base: Path
    classes: tuple[str, ...]


def make_config(
    train: str | Path,
    val: str | Path | None = None,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    keep_classes: bool = False,
    keep_defaults: bool = False,
    epochs: int | None = None,
    command: str = 'eca_mmdet.make_config',
) -> ProposedConfig:
    """Propose a config that trains on the user's data, and check it as training would.

    What was found and proposed is logged, with level INFO.

    Args:
        train: training annotations: a COCO file, or a folder of YOLO, Pascal VOC,
            LabelMe, CVAT or COCO.
        val: validation annotations; None if ``train`` is a folder that has both.
        images: image folder; None to look for it around the annotation files.
        val_images: image folder of ``val``, if it is another.
        model: config to inherit, or the start of its name; None for
            mask-rcnn_eca-r50d, or faster-rcnn_eca-r50d where masks are missing.
        weights: detector or backbone to start from.
        keep_classes: with a detector, keep the class rows of equal names.
        keep_defaults: leave the config's image size and anchors as they are.
        epochs: number of epochs; None for a proposal by the number of images.
        command: written into the head of the config.

    Example:
        >>> import eca_mmdet
        >>> proposed = eca_mmdet.make_config(
        ...     'train.json', 'val.json', model='mask-rcnn_eca-r18-w16'
        ... )
        >>> proposed.classes
        ('cat', 'dog')
        >>> proposed.base.name
        'mask-rcnn_eca-r18-w16_fpn_shapes.py'
    """
    options = Options(
        _text(images),
        _text(val_images),
        model,
        _text(weights),
        keep_classes,
        keep_defaults,
        epochs,
        command,
    )
    data = _read_data(str(train), _text(val), options)
    base = read_base(resolve_model(model or (BOXES if data.unmasked else MASKS)))
    if base.mask_head and data.unmasked:
        counts = [
            f'{part.statistics.unmasked} of {part.statistics.objects} objects of '
            f'{part.file}'
            for part in data
            if part.statistics.unmasked
        ]
        raise UserError(
            f'{base.path.stem} learns masks, and {" and ".join(counts)} have none. Use '
            f'a detector of boxes (--model {BOXES}), or annotate the rest.',
            code='no-masks',
        )
    start = read_start(options, base)
    head = _head(base.path, base.path.as_posix(), command)
    text = '\n'.join([head, *_sections(options, base, data, start)])
    _check(text, base.path.stem, options, data.train.names)
    return ProposedConfig(text, base.path, tuple(data.train.names))


def _head(path: Path, base: str, command: str) -> str:
    """Return what says which command wrote a config, and which one it inherits."""
    head = comment(f'Written by eca-mmdet {eca_mmdet.__version__}: {command}')
    if path in (file.resolve() for file in shipped_configs().values()):
        head += comment(f'Elsewhere: eca-mmdet configs --path {path.stem}')
    return head + assignment('_base_', base)


def add_attention(
    config: str,
    mechanism: str,
    weights: str | None = None,
    command: str = 'eca_mmdet.add_attention',
) -> ProposedConfig:
    """Write a config that inherits another, with attention in the backbone.

    Everything else stays, also the file that training starts from. What changes and
    what starts random is logged, with level INFO.

    Args:
        config: shipped name, file, or e.g. 'mmdet::detr/detr_r50_8xb2-150e_coco.py'.
        mechanism: name of an attention mechanism, e.g. 'cbam'.
        weights: detector or backbone to start from; None for the config's own.
        command: written into the head of the config.

    Raises:
        UserError: no such mechanism, or no place for it in the backbone.

    Example:
        >>> import eca_mmdet
        >>> config = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
        >>> proposed = eca_mmdet.add_attention(config, 'cbam')
        >>> "attention=dict(type='CBAM')" in proposed.text
        True
    """
    from eca_mmdet.checkpoints.inspection import inspect
    from eca_mmdet.models.attention.gate import is_attention
    from eca_mmdet.models.initialization import as_list

    row, path = find_mechanism(mechanism), resolve_config(config).resolve()
    cfg = load_config(str(path))
    require_sections(cfg, training=False)
    old = check_backbone(cfg)
    if start := weights or cfg.get('load_from'):
        cfg.model.backbone.init_cfg = dict(type='ECAPretrained', checkpoint=start)
    try:
        if old is not None and any(map(is_attention, old.modules())):
            raise ValueError(f'{type(old).__name__} has attention already')
        changes = give_attention(cfg, row)
    except ValueError as error:
        raise UserError(f'{config}: {error}.', code='unsupported-model') from error
    if weights:
        detector = inspect(str(fetch(weights))).kind == 'detector'
        changes['load_from'] = weights if detector else None
    for use in ('val', 'test'):  # with the numbers that the report shows
        if missing_numbers(cfg, use) and isinstance(cfg.get(f'{use}_evaluator'), dict):
            changes[f'{use}_evaluator'] = dict(type='CocoTableMetric')
    base = f'{config.removesuffix(".py")}.py' if '::' in config else path.as_posix()
    parts = [assignment(name, value) for name, value in changes.items()]
    text = '\n'.join([_head(path, base, command), *parts])
    cfg = _load(text, path.stem)
    layers = [*filter(is_attention, check_backbone(cfg).modules())]
    count = sum(p.numel() for layer in layers for p in layer.parameters())
    how = 'start as the identity' if row.adds else 'start random'
    logger.info(
        f'new in the backbone: {plural(len(layers), f"{row.type} layer")}, '
        + (f'whose {count:,} parameters {how}' if count else 'without parameters')
    )
    frozen = cfg.model.backbone.get('frozen_stages', -1)
    if frozen != old.frozen_stages:
        change = f'{old.frozen_stages} to {frozen}'
        logger.info(f'frozen_stages: from {change}, or they would never train')
    init = as_list(cfg.model.backbone.get('init_cfg'))
    files = [entry.checkpoint for entry in init if 'checkpoint' in entry]
    logger.info(f'the rest of it: {files[-1] if files else "random, as before"}')
    logger.info(f'neck and heads: {cfg.get("load_from") or "random, as before"}')
    if line := missing_numbers(cfg, 'val'):  # several metrics are left as they are
        logger.info(line)
    return ProposedConfig(text, path, class_names(cfg) or ())


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _read_data(train: str, val: str | None, options: Options) -> Data:
    """Read both files, log their sizes and check some of their images."""
    data = read_inputs(train, val, options)
    faults = []
    for part in data:
        command = f'data check {part.file} --images {part.images} --fix OUT.json'
        if not len(part.statistics.sizes):
            raise UserError(
                f"{part.file}: no image has 'width' and 'height'. Add them: eca-mmdet "
                f'{command}',
                code='faulty-data',
            )
        head, *more = part.statistics.describe()
        logger.info(f'{part.file}: {head}')
        for line in (*more, *part.notes):
            logger.info(f'  {line}')
        found = [fault.line() for fault in open_some(part)]
        faults += [f'{part.file}: {line}' for line in found]
        if found:
            faults.append(f'eca-mmdet {command} writes a repaired copy')
    if faults:
        lines = [f'  {printable(line)}' for line in faults]
        raise FaultsError('\n'.join(['the images have faults:', *lines]))
    return data


def _sections(options: Options, base: Base, data: Data, start: Start) -> list[str]:
    """Return the text of each section of the config, and log the proposals."""
    statistics = data.train.statistics
    size = proposals.propose_size(statistics, base.scale) if base.scale else None
    if size:
        size = size.declined() if options.keep_defaults else size
        logger.info(f'image size: {size.why}')
    anchors = None
    if base.anchors and start.is_detector:
        anchors = start.anchors_of(base.anchors)
    elif base.anchors and len(statistics.boxes):
        boxes = statistics.scaled_boxes(size.value) if size else statistics.boxes
        anchors = proposals.propose_anchors(boxes, base.anchors)
        anchors = anchors.declined() if options.keep_defaults else anchors
    if anchors:
        logger.info(f'anchors: {anchors.why}')
    side = max(size.value if size else statistics.median_size)
    batch, why_batch = proposals.propose_batch(base.cfg, side)
    images, lost = sections.images_an_epoch(base, statistics)
    if lost:
        logger.info(f'{lost} images without an object are left out: filter_empty_gt')
    course = proposals.propose_schedule(
        images, batch, start.is_detector, options.epochs
    )
    logger.info(f'batch: {batch}, {why_batch}')
    logger.info(f'epochs: {course.epochs}, {course.why}')
    classes = data.train.names
    ids = [str(category['id']) for category in data.train.categories]
    why = (
        f'The categories of {data.train.file} in its order, by which mmdet numbers '
        f'labels: ids {first(ids, 10)}.'
    )
    pipelines = sections.pipelines(base, data, size)
    entries = {
        'classes': Commented(tuple(classes), why),
        'model': sections.model_of(base, len(classes), anchors, start),
        **start.entries,
        **pipelines,
        **sections.loaders(base, data, batch, why_batch, bool(pipelines)),
        **sections.course(base, course),
    }
    return [assignment(name, value) for name, value in entries.items()]


def _check(text: str, name: str, options: Options, classes: Sequence[str]) -> None:
    """Load the config and make the checks that training begins with."""
    from eca_mmdet.checkpoints.transfer import describe_start
    from eca_mmdet.engine.data_checks import check_data
    from eca_mmdet.models.initialization import as_list

    cfg = _load(text, name)
    backbone = check_backbone(cfg)
    check_operators(cfg)
    check_data(cfg, training=True)
    if cfg.get('load_from'):
        file = str(fetch(cfg.load_from))
        keep = options.keep_classes
        for line in describe_start(file, cfg.model, tuple(classes), keep):
            logger.info(line)
        return
    for entry in as_list((cfg.model.get('backbone') or {}).get('init_cfg')):
        checkpoint = str(entry.get('checkpoint'))
        if is_address(checkpoint):
            logger.info(f'weights: {checkpoint}, unless you train --from-scratch')
            return
    try:
        check_backbone_weights(cfg, backbone)
    except UserError as error:
        logger.info(f'before you train: {error}')


def _load(text: str, name: str) -> Any:
    """Load a config from its text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'{name}.py'
        path.write_text(text, encoding='utf-8')
        return load_config(str(path))


def config_of(
    config: str | None,
    data: Sequence[str],
    options: Options,
    work_dir: str | None = None,
    resume: bool = False,
    launcher: str = 'none',
    from_scratch: bool = False,
) -> tuple[str, str | None]:
    """Return the config to train and its work folder.

    With ``data`` (training and validation), a config is written into the work folder,
    ``work_dirs/NAME`` by default; on ``resume`` it must be equal to that written first.
    """
    given = [key for key, value in vars(options).items() if value and key != 'command']
    if config and not data and not given:
        return config, work_dir
    reason, code = '', 'option-conflict'
    if given and not data:
        words = ', '.join(f'--{key.replace("_", "-")}' for key in given)
        reason = f'{words} goes with --data TRAIN.json VAL.json.'
    elif not data:
        reason = 'name a config (eca-mmdet configs), or give --data.'
        code = 'option-missing'
    elif config:
        reason = f'--data writes its own config; inherit {config} with --model.'
    elif launcher != 'none':
        reason = (
            '--data goes with one process. Write the config first: eca-mmdet init; '
            'then train that.'
        )
    elif len(data) > 2:
        reason = f'--data takes a training and a validation file; got {len(data)}.'
        code = 'option-invalid'
    if reason:
        raise UserError(reason, code=code)
    name = _name(data[0], options.model)
    work_dir = work_dir or str(Path('work_dirs') / name)
    folder = Path(work_dir) / FOLDER
    trained = _config_of_run(folder) if resume else None
    if not resume:
        require_no_checkpoints(work_dir)  # before a config is written beside them
    if not (resume or from_scratch):
        _require_weights(data, options)
    val = data[1] if len(data) > 1 else None
    proposed = make_config(data[0], val, **vars(options))
    if trained is None:
        names = [name, *(f'{name}-{number}' for number in range(2, 1000))]
        path = next(p for n in names if not os.path.lexists(p := folder / f'{n}.py'))
        write_texts({path: proposed.text})
        logger.info(f'config: {path}')
        return str(path), work_dir
    texts = trained.read_text(encoding='utf-8'), proposed.text
    old, new = (text.partition('\n_base_ = ')[2] for text in texts)  # not the command
    if old != new:
        raise UserError(
            'the data or the options differ from when this training began. To go on '
            f'with its config: eca-mmdet train {trained} --work-dir {work_dir} '
            '--resume, and the settings that it had (--batch-size, --imgsz, ...); '
            '--epochs N moves the end. For a new training name another --work-dir.',
            code='checkpoint-mismatch',
        )
    logger.info(f'config: {trained}, written when this training began')
    return str(trained), work_dir


def _require_weights(data: Sequence[str], options: Options) -> None:
    """Find or download what the training starts from, before data are converted."""
    for name in data:
        if not Path(name).exists():
            raise UserError(f'{name!r} does not exist.', code='file-not-found')
    cfg = read_base(resolve_model(options.model or MASKS)).cfg
    if start := options.weights or cfg.get('load_from'):
        fetch(str(start))
    else:
        check_backbone_weights(cfg, check_backbone(cfg))


def _name(train: str, model: str | None) -> str:
    """Return a name of the model and the data, e.g. 'mask-rcnn_eca-r50_pets_train'."""
    path = Path(train)
    folders = (path.parent.name, path.parent.parent.name)
    folder = next((name for name in folders if name not in ('', 'annotations')), '')
    return '_'.join(filter(None, (Path(model or 'detector').stem, folder, path.stem)))


def _config_of_run(folder: Path) -> Path | None:
    """Return the config of the latest checkpoint, by the name of its run."""
    checkpoint = find_checkpoint(str(folder.parent))
    if checkpoint is None:
        return None
    run = str(checkpoint.meta.get('experiment_name') or '')
    name = run.rsplit('_', 2)[0]  # mmengine adds date and time
    path = folder / f'{name}.py'
    if name and path.is_file():
        return path
    raise UserError(
        f'{checkpoint.path} was not written by train --data. Resume that training with '
        'its config, or name another --work-dir.',
        code='checkpoint-mismatch',
    )
