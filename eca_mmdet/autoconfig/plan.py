"""Put a config for the user's data together, and check it as training would."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eca_mmdet
from eca_mmdet.autoconfig import anchors, scale, schedule, sections, statistics
from eca_mmdet.autoconfig.base import Base, read_base, resolve_model
from eca_mmdet.autoconfig.inputs import Options, open_some, read_inputs
from eca_mmdet.autoconfig.sections import Data
from eca_mmdet.autoconfig.start import Start, describe, read_start, with_own_weights
from eca_mmdet.autoconfig.text import Commented, assignment, comment
from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.utils.errors import FaultsError, UserError
from eca_mmdet.utils.text import printable

MASKS, BOXES = 'mask-rcnn_eca-r50', 'faster-rcnn_eca-r50'
"""What is proposed for data with masks, and without."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProposedConfig:
    """A config for the user's data.

    Attributes:
        text: of the config file; UTF-8 when written, as mmengine reads it.
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
            mask-rcnn_eca-r50, or faster-rcnn_eca-r50 where masks are missing.
        weights: detector or backbone to start from.
        keep_classes: with a detector, keep the class rows of equal names.
        keep_defaults: leave the config's image size and anchors as they are.
        epochs: number of epochs; None for a proposal by the number of images.
        command: written into the head of the config.

    Raises:
        UserError: the data have faults, or do not fit the detector.

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
    return write_config(str(train), _text(val), options)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def write_config(train: str, val: str | None, options: Options) -> ProposedConfig:
    """Return a config for the user's data; as :func:`make_config`."""
    data = read_data(train, val, options)
    model = options.model or (BOXES if _unmasked(data) else MASKS)
    base = read_base(resolve_model(model))
    _require_masks(base, data)
    options = with_own_weights(options, base)
    start = read_start(options, base)
    parts = [_head(options, base), *_sections(options, base, data, start)]
    text = '\n'.join(parts)
    _check(text, base.path.stem, options, data.train.names)
    return ProposedConfig(text, base.path, tuple(data.train.names))


def read_data(train_file: str, val_file: str | None, options: Options) -> Data:
    """Read both files, and log what is in them."""
    train, val = read_inputs(train_file, val_file, options)
    data = Data(
        train, val, statistics.count(train.content), statistics.count(val.content)
    )
    for part, one in ((train, data.statistics), (val, data.val_statistics)):
        lines = statistics.describe(one)
        logger.info(f'{part.file}: {lines[0]}')
        for line in (*lines[1:], *part.notes):
            logger.info(f'  {line}')
    _require_images(data)
    if not len(data.statistics.sizes):
        raise UserError(
            f"{train.file}: no image has 'width' and 'height'. Add them: eca-mmdet "
            f'check-data {train.file} --images {train.images} --fix OUT.json',
            code='faulty-data',
        )
    return data


def _require_images(data: Data) -> None:
    """Open images.

    Raises:
        FaultsError: some cannot be trained on.
    """
    lines = []
    for part in (data.train, data.val):
        found = [printable(one.line()) for one in open_some(part)]
        lines += [f'  {printable(str(part.file))}: {line}' for line in found]
        if found:
            command = f'check-data {part.file} --images {part.images} --fix OUT.json'
            lines.append(printable(f'  eca-mmdet {command} writes a repaired copy'))
    if lines:
        raise FaultsError('\n'.join(['the images have faults:', *lines]))


def _unmasked(data: Data) -> int:
    return data.statistics.unmasked + data.val_statistics.unmasked


def _require_masks(base: Base, data: Data) -> None:
    if not base.mask_head:
        return
    found = [
        f'{one.unmasked} of {one.objects} objects of {part.file}'
        for part, one in (
            (data.train, data.statistics),
            (data.val, data.val_statistics),
        )
        if one.unmasked
    ]
    if found:
        raise UserError(
            f'{base.path.stem} learns masks, and {" and ".join(found)} have none. Use '
            f'a detector of boxes (--model {BOXES}), or annotate the rest.',
            code='no-masks',
        )


def _head(options: Options, base: Base) -> str:
    written = f'Written by eca-mmdet {eca_mmdet.__version__}: {options.command}'
    path = assignment('_base_', base.path.as_posix())
    if base.path not in (one.resolve() for one in shipped_configs().values()):
        return comment(written) + path
    elsewhere = f'Elsewhere: eca-mmdet configs --path {base.path.stem}'
    return comment(written) + comment(elsewhere) + path


def _sections(options: Options, base: Base, data: Data, start: Start) -> list[str]:
    """Return the text of each part of the config."""
    size, proposal = _proposals(options, base, data, start)
    large = max(size.size if size else data.statistics.median_size)
    batch, why_batch = schedule.propose_batch(base.cfg, (large, large))
    images, lost = sections.trained_images(base, data.statistics)
    if lost:
        logger.info(f'{lost} images without an object are left out: filter_empty_gt')
    images *= sections.repeated(base)
    course = schedule.propose(images, batch, start.is_detector, options.epochs)
    logger.info(f'batch: {batch}, {why_batch}')
    logger.info(f'epochs: {course.epochs}, {course.why}')
    classes = data.train.names
    ids = [one['id'] for one in data.train.categories]
    shown = ', '.join(map(str, ids[:10])) + (', ...' if len(ids) > 10 else '')
    why = (
        f'The categories of {data.train.file} in its order, by which mmdet numbers '
        f'labels: ids {shown}.'
    )
    entries: dict[str, Any] = {'classes': Commented(tuple(classes), why)}
    entries['model'] = sections.model_of(base, len(classes), proposal, start)
    entries |= start.entries
    entries |= sections.pipelines(base, data, size)
    entries |= sections.loaders(
        base, data, batch, why_batch, 'train_pipeline' in entries
    )
    entries |= sections.course(base, course)
    return [assignment(name, value) for name, value in entries.items()]


def _proposals(
    options: Options, base: Base, data: Data, start: Start
) -> tuple[scale.Scale | None, anchors.Proposal | None]:
    """Return the image size and the anchors, and say both."""
    size = scale.propose(data.statistics, base.scale) if base.scale else None
    if size and options.keep_defaults:
        kept = f"the config's own stays, as asked; proposed: {size.why}"
        size = scale.Scale(size.own, size.own, kept if size.changed else size.why)
    proposal = _anchors(options, base, data, start, size)
    if size:
        logger.info(f'image size: {size.why}')
    if proposal:
        logger.info(f'anchors: {proposal.why}')
    return size, proposal


def _anchors(
    options: Options, base: Base, data: Data, start: Start, size: scale.Scale | None
) -> anchors.Proposal | None:
    """Return the anchors; None where there are none, or nothing to go by."""
    own, statistics = base.anchors, data.statistics
    if own is None:
        return None
    if start.is_detector:
        return start.anchors_of(own)
    if not len(statistics.boxes):
        return None
    shown = statistics.scaled_boxes(size.size) if size else statistics.boxes
    proposal = anchors.propose(shown, own)
    if proposal.changed and options.keep_defaults:
        kept = f"the config's own stay, as asked; proposed: {proposal.why}"
        return anchors.Proposal(own, own, kept)
    return proposal


def _check(text: str, name: str, options: Options, classes: Sequence[str]) -> None:
    """Load the config and make the checks that training begins with.

    Raises:
        UserError: what they find.
    """
    from eca_mmdet.engine import data_checks as preflight_data
    from eca_mmdet.engine import preflight
    from eca_mmdet.engine.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'{name}.py'
        path.write_text(text, encoding='utf-8')
        cfg = load_config(str(path))
        backbone = preflight.check_backbone(cfg)
        preflight.check_operators(cfg)
        preflight_data.check_data(cfg, training=True)
        if cfg.get('load_from'):
            for line in describe(cfg, classes, options.keep_classes):
                logger.info(line)
        else:
            _check_weights(cfg, backbone)


def _check_weights(cfg: Any, backbone: Any) -> None:
    from eca_mmdet.engine import preflight

    try:
        preflight.check_backbone_weights(cfg, backbone)
    except UserError as error:
        logger.info(f'before you train: {error}')
