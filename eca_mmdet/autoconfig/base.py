"""The config to inherit, and the checkpoint that training starts from."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.autoconfig.inputs import Options
from eca_mmdet.autoconfig.proposals import (
    Anchors,
    Commented,
    Proposal,
    kept,
    read_anchors,
)
from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import suggestion

RECIPE = '_4xb2-1x_coco'


def resolve_model(name: str) -> Path:
    """Return the file of a config by path, by name, or by the start of its name.

    'mask-rcnn_eca-r50' is the config of that detector and backbone in the paper's
    recipe, or the only one that there is.
    """
    known = shipped_configs()
    if Path(name).is_file() or name.removesuffix('.py') in known:
        return resolve_config(name)
    found = [stem for stem in known if stem.startswith(f'{name}_')]
    chosen = [stem for stem in found if stem.endswith(RECIPE)] or found
    if len(chosen) == 1:
        return known[chosen[0]]
    starts = {stem.partition('_fpn')[0] for stem in known}
    advice = suggestion(name, starts)
    if found:
        advice = f' Several begin so: {", ".join(found)}.'
    raise UserError(
        f'--model {name!r} is neither a file nor a shipped config.{advice} The names: '
        'eca-mmdet configs',
        code='config-not-found',
    )


@dataclass(frozen=True)
class Base:
    """A config to inherit; ``heads`` and ``anchor_path`` are paths below its model."""

    path: Path  # absolute
    cfg: Any
    heads: tuple[tuple[str, ...], ...]  # with num_classes: ('roi_head', 'bbox_head')
    mask_head: bool
    scale: tuple[int, int] | None  # long and short side of the test pipeline's Resize
    anchors: Anchors | None  # None if of a kind that is not supported
    anchor_path: tuple[str, ...]


def read_base(path: Path) -> Base:
    """Read a config to train on COCO files, and find what depends on the data."""
    from eca_mmdet.checkpoints.class_layers import class_heads
    from eca_mmdet.engine.config import load_config, require_sections, type_name
    from eca_mmdet.engine.settings import resize_scales

    cfg = load_config(str(path))
    require_sections(cfg, training=True)
    paths = (path for path, _ in class_heads(cfg.model))
    # The heads of a cascade, in a list, are set together.
    paths = (path[:-1] if path[-1].isdigit() else path for path in paths if path)
    heads = tuple(p for p in dict.fromkeys(paths) if p[-1].endswith('head'))
    if not heads:
        raise UserError(
            f'{path}: no head of its model has num_classes.', code='unsupported-model'
        )
    for name in ('train', 'val', 'test'):
        leaf = innermost(cfg.get(f'{name}_dataloader'), path, name)[1]
        if type_name(leaf) not in ('CocoDataset', 'CocoIndexDataset'):
            raise UserError(
                f'{path}: {name}_dataloader reads a {leaf.get("type")}; a config for '
                'CocoDataset is expected (eca-mmdet configs lists some).',
                code='config-invalid',
            )
    mask = any(head[-1] == 'mask_head' for head in heads)
    test = innermost(cfg.test_dataloader, path, 'test')[1].get('pipeline') or ()
    sizes = [
        (int(max(pair)), int(min(pair)))
        for step in test
        for pair in resize_scales(step)
    ]
    where, anchors = find_anchors(cfg.model)
    return Base(
        path.resolve(), cfg, heads, mask, sizes[0] if sizes else None, anchors, where
    )


def innermost(loader: Any, path: Path, name: str) -> tuple[int, Any]:
    """Return how deep a loader's dataset is inside others (RepeatDataset), and it."""
    dataset, depth = (loader or {}).get('dataset'), 0
    while dataset and 'dataset' in dataset:
        dataset, depth = dataset['dataset'], depth + 1
    if not dataset or 'datasets' in dataset:
        raise UserError(
            f'{path}: {name}_dataloader must read one dataset, which the new config '
            'replaces.',
            code='config-invalid',
        )
    return depth, dataset


def find_anchors(model: Any) -> tuple[tuple[str, ...], Anchors | None]:
    """Return the path of a model's anchor generator, and its anchors if supported."""
    for key in ('rpn_head', 'bbox_head'):
        head = model.get(key)
        if isinstance(head, dict) and head.get('anchor_generator'):
            return (key, 'anchor_generator'), read_anchors(head['anchor_generator'])
    return (), None


@dataclass(frozen=True)
class Start:
    """What the training starts from: a detector, a backbone, or the base's weights."""

    is_detector: bool = False  # a whole one, for ``load_from``
    model: dict[str, Any] = field(default_factory=dict)  # entries of the model
    entries: dict[str, Any] = field(default_factory=dict)  # entries beside it
    anchors: Anchors | None = None  # of the detector, if its file says so
    file: str = ''  # of the detector

    def anchors_of(self, own: Anchors) -> Proposal[Anchors]:
        """Return the anchors that the detector was trained with, if they fit."""
        theirs = self.anchors
        if theirs == own:
            return kept(own, f"the config's own, which {self.file} was trained with")
        if theirs is None:
            why = f'{self.file} does not say which it was trained with'
            return kept(own, f"the config's own: {why}")
        layouts = [(a.key, a.octaves, a.strides, len(a.ratios)) for a in (theirs, own)]
        if layouts[0] != layouts[1]:
            why = f'{self.file} was trained with others ({theirs.text()})'
            return kept(own, f"the config's own: {why}, which do not fit it")
        why = f'those that {self.file} was trained with, {theirs.text()}'
        return Proposal(theirs, own, why)


def read_start(options: Options, base: Base) -> Start:
    """Inspect the file of ``--weights``, or of the config's ``load_from``."""
    from eca_mmdet.checkpoints.download import fetch
    from eca_mmdet.checkpoints.inspection import inspect

    load_from = base.cfg.get('load_from')
    weights = options.weights or (str(load_from) if load_from else None)
    if weights is None:
        if options.keep_classes:
            raise UserError(
                '--keep-classes goes with --weights FILE, a detector.',
                code='option-conflict',
            )
        return Start()
    path = str(fetch(weights))
    inspection = inspect(path)
    if inspection.kind == 'detector':
        return from_detector(weights, options.keep_classes, base, path)
    if options.keep_classes:
        raise UserError(
            f'--keep-classes needs a detector; {weights} is: {inspection.what}.',
            code='option-conflict',
        )
    init = dict(_delete_=True, type='ECAPretrained', checkpoint=weights)
    # A detector that the config starts from would be loaded over it.
    entries = {'load_from': None} if load_from else {}
    return Start(model=dict(backbone=dict(init_cfg=init)), entries=entries)


def from_detector(weights: str, keep_classes: bool, base: Base, path: str) -> Start:
    """Return a start from a detector, named ``weights`` and found at ``path``."""
    from eca_mmdet.checkpoints.embedded_config import parse_config
    from eca_mmdet.checkpoints.io import read_checkpoint

    hook: dict[str, Any] = dict(type='FineTuneHook')
    why = 'The layers that count classes start new.'
    if keep_classes:
        hook['keep_classes'] = True
        why = 'Of the layers that count classes, rows of equal names are kept.'
    hooks = [dict(own) for own in base.cfg.get('custom_hooks') or []]
    hooks = [own for own in hooks if own.get('type') != 'FineTuneHook'] + [hook]
    entries = {'load_from': weights, 'custom_hooks': Commented(hooks, why)}
    # The detector brings its backbone; mmdet's own train.py reads both otherwise.
    has_init = (base.cfg.model.get('backbone') or {}).get('init_cfg')
    model = dict(backbone=dict(init_cfg=None)) if has_init else {}
    # The config in the file is untrusted: its numbers may be anything.
    anchors, errors = None, (UserError, TypeError, ValueError, ArithmeticError)
    with contextlib.suppress(*errors):
        values = parse_config(read_checkpoint(path).config, path).get('model')
        anchors = find_anchors(values)[1] if isinstance(values, dict) else None
    return Start(True, model, entries, anchors, weights)
