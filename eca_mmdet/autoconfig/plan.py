"""Put a config for the user's data together, and check it as training would."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eca_mmdet
from eca_mmdet.autoconfig import anchors, scale, schedule, sections, statistics
from eca_mmdet.autoconfig.base import Base, read_base, resolve_model
from eca_mmdet.autoconfig.formats import as_coco
from eca_mmdet.autoconfig.options import Options
from eca_mmdet.autoconfig.sections import Data
from eca_mmdet.autoconfig.source import Part, align, open_some, read_part
from eca_mmdet.autoconfig.start import Start, describe, read_start, with_own_weights
from eca_mmdet.autoconfig.text import Said, assignment, comment
from eca_mmdet.catalog.configs import shipped_configs
from eca_mmdet.utils.errors import FaultsError, UserError
from eca_mmdet.utils.text import printable

MASKS, BOXES = 'mask-rcnn_eca-r50', 'faster-rcnn_eca-r50'
"""What is proposed for data with masks, and without."""

Say = Callable[[str], None]


def write_config(options: Options, say: Say) -> str:
    """Return the text of a config for the user's data.

    Args:
        options: what was asked for.
        say: takes lines for the user.

    Raises:
        UserError: the data have faults, or do not fit the detector.
    """
    data = read_data(options, say)
    model = options.model or (BOXES if _unmasked(data) else MASKS)
    base = read_base(resolve_model(model))
    _require_masks(base, data)
    options = with_own_weights(options, base)
    start = read_start(options, base)
    parts = [_head(options, base), *_sections(options, base, data, start, say)]
    text = '\n'.join(parts)
    _check(text, base.path.stem, options, data.train.names, say)
    return text


def read_data(options: Options, say: Say) -> Data:
    """Read both files, and say what is in them."""
    train, val = _parts(options, say)
    val = align(train, val)
    data = Data(
        train, val, statistics.count(train.content), statistics.count(val.content)
    )
    for part, one in ((train, data.statistics), (val, data.val_statistics)):
        lines = statistics.describe(one)
        say(f'{part.file}: {lines[0]}')
        for line in (*lines[1:], *part.notes):
            say(f'  {line}')
    _require_images(data)
    if not len(data.statistics.sizes):
        raise UserError(
            f"{train.file}: no image has 'width' and 'height'. Add them: eca-mmdet "
            f'check-data {train.file} --images {train.images} --fix OUT.json'
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


def _parts(options: Options, say: Say) -> tuple[Part, Part]:
    train, val = as_coco(options, say)
    return read_part(train.file, train.images), read_part(val.file, val.images)


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
            f'a detector of boxes (--model {BOXES}), or annotate the rest.'
        )


def _head(options: Options, base: Base) -> str:
    written = f'Written by eca-mmdet {eca_mmdet.__version__}: {options.command}'
    path = assignment('_base_', base.path.as_posix())
    if base.path not in (one.resolve() for one in shipped_configs().values()):
        return comment(written) + path
    elsewhere = f'Elsewhere: eca-mmdet configs --path {base.path.stem}'
    return comment(written) + comment(elsewhere) + path


def _sections(
    options: Options, base: Base, data: Data, start: Start, say: Say
) -> list[str]:
    """Return the text of each part of the config."""
    size, proposal = _proposals(options, base, data, start, say)
    large = max(size.size if size else data.statistics.median_size)
    batch, why_batch = schedule.propose_batch(base.cfg, (large, large))
    images, lost = sections.trained_images(base, data.statistics)
    if lost:
        say(f'{lost} images without an object are left out: filter_empty_gt')
    images *= sections.repeated(base)
    course = schedule.propose(images, batch, start.is_detector, options.epochs)
    say(f'batch: {batch}, {why_batch}')
    say(f'epochs: {course.epochs}, {course.why}')
    classes = data.train.names
    ids = [one['id'] for one in data.train.categories]
    shown = ', '.join(map(str, ids[:10])) + (', ...' if len(ids) > 10 else '')
    why = (
        f'The categories of {data.train.file} in its order, by which mmdet numbers '
        f'labels: ids {shown}.'
    )
    entries: dict[str, Any] = {'classes': Said(tuple(classes), why)}
    entries['model'] = sections.model_of(base, len(classes), proposal, start)
    entries |= start.entries
    entries |= sections.pipelines(base, data, size)
    entries |= sections.loaders(
        base, data, batch, why_batch, 'train_pipeline' in entries
    )
    entries |= sections.course(base, course)
    return [assignment(name, value) for name, value in entries.items()]


def _proposals(
    options: Options, base: Base, data: Data, start: Start, say: Say
) -> tuple[scale.Scale | None, anchors.Proposal | None]:
    """Return the image size and the anchors, and say both."""
    size = scale.propose(data.statistics, base.scale) if base.scale else None
    if size and options.keep_defaults:
        kept = f"the config's own stays, as asked; proposed: {size.why}"
        size = scale.Scale(size.own, size.own, kept if size.changed else size.why)
    proposal = _anchors(options, base, data, start, size)
    if size:
        say(f'image size: {size.why}')
    if proposal:
        say(f'anchors: {proposal.why}')
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


def _check(
    text: str, name: str, options: Options, classes: Sequence[str], say: Say
) -> None:
    """Load the config and make the checks that training begins with.

    Raises:
        UserError: what they find.
    """
    from eca_mmdet.engine.config import load_config
    from eca_mmdet.engine.preflight import data as preflight_data
    from eca_mmdet.engine.preflight import model as preflight

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'{name}.py'
        path.write_text(text, encoding='utf-8')
        cfg = load_config(str(path))
        with contextlib.redirect_stdout(sys.stderr):
            backbone = preflight.check_backbone(cfg)
            preflight.check_operators(cfg)
            preflight_data.check_data(cfg, training=True)
            if not cfg.get('load_from'):
                _check_weights(cfg, backbone, say)
        if cfg.get('load_from'):
            for line in describe(cfg, classes, options.keep_classes):
                say(line)


def _check_weights(cfg: Any, backbone: Any, say: Say) -> None:
    from eca_mmdet.engine.preflight import model as preflight

    try:
        preflight.check_backbone_weights(cfg, backbone)
    except UserError as error:
        say(f'before you train: {error}')
