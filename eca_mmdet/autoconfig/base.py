"""The shipped config that the new one inherits, and what of it depends on the data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.autoconfig.anchors import Anchors, read_anchors
from eca_mmdet.catalog.configs import resolve_config, shipped_configs
from eca_mmdet.utils.errors import UserError

RECIPE = '_4xb2-1x_coco'
_RESIZES = {'Resize': 'scale', 'RandomResize': 'scale', 'RandomChoiceResize': 'scales'}


def resolve_model(name: str) -> Path:
    """Return the file of a config by path, by name, or by the start of its name.

    'mask-rcnn_eca-r50' is the config of that detector and backbone in the paper's
    recipe, or the only one that there is.

    Raises:
        UserError: none, or several.
    """
    if Path(name).is_file() or name.removesuffix('.py') in shipped_configs():
        return resolve_config(name)
    known = shipped_configs()
    found = [stem for stem in known if stem.startswith(f'{name}_')]
    chosen = [stem for stem in found if stem.endswith(RECIPE)] or found
    if len(chosen) == 1:
        return known[chosen[0]]
    starts = {stem.partition('_fpn')[0] for stem in known}
    close = difflib.get_close_matches(name, sorted(starts), n=3, cutoff=0.5)
    advice = f' Did you mean {", ".join(close)}?' if close else ''
    if found:
        advice = f' Several begin so: {", ".join(found)}.'
    raise UserError(
        f'--model {name!r} is neither a file nor a shipped config.{advice} The names: '
        'eca-mmdet configs',
        code='config-not-found',
    )


@dataclass(frozen=True)
class Base:
    """A config to inherit.

    Attributes:
        path: of the file, absolute.
        cfg: read.
        heads: config paths below ``model`` with ``num_classes``, as
            ('roi_head', 'bbox_head').
        mask_head: whether the detector has one.
        scale: long and short side of the test pipeline's Resize; None without.
        anchors: of the part at ``anchor_path``; None if there are none that we read.
        anchor_path: below ``model``.
    """

    path: Path
    cfg: Any
    heads: tuple[tuple[str, ...], ...]
    mask_head: bool
    scale: tuple[int, int] | None
    anchors: Anchors | None
    anchor_path: tuple[str, ...]


def read_base(path: Path) -> Base:
    """Read a config and find what depends on the data.

    Raises:
        UserError: it is none to train, or its data set is not one of COCO files.
    """
    from eca_mmdet.engine.config import class_heads, load_config, require_sections

    cfg = load_config(str(path))
    require_sections(cfg, training=True)
    paths = (path for path, _ in class_heads(cfg.model))
    # The heads of a cascade, in a list, are set together.
    heads = tuple(dict.fromkeys(p[:-1] if p[-1].isdigit() else p for p in paths))
    if not heads:
        raise UserError(
            f'{path}: no head of its model has num_classes.', code='unsupported-model'
        )
    for name in ('train', 'val', 'test'):
        leaf = innermost(cfg.get(f'{name}_dataloader'), path, name)[1]
        if str(leaf.get('type')).rpartition('.')[2] != 'CocoDataset':
            raise UserError(
                f'{path}: {name}_dataloader reads a {leaf.get("type")}; a config for '
                'CocoDataset is expected (eca-mmdet configs lists some).',
                code='config-invalid',
            )
    mask = any(one[-1] == 'mask_head' for one in heads)
    test = innermost(cfg.test_dataloader, path, 'test')[1].get('pipeline') or ()
    sizes = [size for step in test for size in _sizes(step)]
    where, anchors = find_anchors(cfg.model)
    return Base(
        path.resolve(), cfg, heads, mask, sizes[0] if sizes else None, anchors, where
    )


def innermost(loader: Any, path: Path, name: str) -> tuple[int, Any]:
    """Return how deep the data set is inside others (RepeatDataset), and it.

    Raises:
        UserError: there is none, or several.
    """
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


def _sizes(step: Any) -> list[tuple[int, int]]:
    """Return the sizes of a resizing step, long side first."""
    key = _RESIZES.get(str(step.get('type')).rpartition('.')[2])
    value = step.get(key) if key else None
    if not value or isinstance(value, int):
        return []
    pairs = [value] if isinstance(value[0], (int, float)) else value
    return [(int(max(one)), int(min(one))) for one in pairs]


def plain_steps(pipeline: Any) -> list[dict[str, Any]]:
    """Return copies of the steps, without arguments that are None."""
    return [
        {key: value for key, value in step.items() if value is not None}
        for step in pipeline
    ]


def resized(
    pipeline: list[dict[str, Any]], own: tuple[int, int], new: tuple[int, int]
) -> list[Any]:
    """Return a pipeline whose resizing steps go to another size.

    Several sizes (multi-scale training) change in proportion. A pipeline without such a
    step gets one, after the annotations are loaded.

    Args:
        pipeline: copied steps, which are changed.
        own: the size of its config.
        new: in its place.
    """
    steps, found = [], False
    for step in pipeline:
        key = _RESIZES.get(str(step.get('type')).rpartition('.')[2])
        if key and _sizes(step):
            found = True
            single = isinstance(step[key][0], (int, float))
            pairs = [step[key]] if single else step[key]
            changed = [_scaled(pair, own, new) for pair in pairs]
            step[key] = changed[0] if single else changed
        steps.append(step)
    if not found:
        names = [str(one.get('type')).rpartition('.')[2] for one in steps]
        at = 1 + max(names.index(n) for n in names if n.startswith('Load'))
        steps.insert(at, dict(type='Resize', scale=new, keep_ratio=True))
    return steps


def _scaled(pair: Any, own: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    long, short = max(pair), min(pair)
    return round(long * new[0] / own[0]), round(short * new[1] / own[1])


def find_anchors(model: Any) -> tuple[tuple[str, ...], Anchors | None]:
    """Return where a model has its anchors, and them if they are of a kind we read."""
    for key in ('rpn_head', 'bbox_head'):
        part = model.get(key)
        if isinstance(part, dict) and part.get('anchor_generator'):
            return (key, 'anchor_generator'), read_anchors(part['anchor_generator'])
    return (), None
