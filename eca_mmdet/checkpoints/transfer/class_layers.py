"""The layers of a detector that depend on its number of classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from eca_mmdet.checkpoints.transfer.class_rows import (
    Layout,
    layout_between,
    layout_by_name,
)
from eca_mmdet.utils.errors import UserError

Layers = dict[str, 'Layout | None']
"""Tensors of class layers by name; None where the rows of a class are not known."""

_OTHER_PARTS = (
    'backbone',
    'neck',
    'rpn_head',  # object or not
    'semantic_head',  # its classes are stuff
    'data_preprocessor',
    'init_cfg',
    'train_cfg',
    'test_cfg',
)


def find_class_layers(
    model_cfg: Any, state: Mapping[str, Tensor], classes: int | None = None
) -> Layers:
    """Return a detector's tensors that have other shapes for other classes.

    The model is built twice without memory, once with one class more in every head.
    Where that cannot be done, the names of mmdet's usual heads are looked for.

    Args:
        model_cfg: as ``cfg.model``; not changed. None for a model without a config.
        state: of the model.
        classes: of the data; needed where the config does not say it.

    Raises:
        UserError: there are none.
    """
    layers = _by_shape(model_cfg) if model_cfg else {}
    found = {name: layers[name] for name in state if name in layers}
    if not found and classes:
        names = ((name, tuple(tensor.shape)) for name, tensor in state.items())
        known = {name: layout_by_name(name, shape, classes) for name, shape in names}
        found = {name: layout for name, layout in known.items() if layout}
    if not found:
        raise UserError(
            'no layer of this model depends on its number of classes, as far as its '
            'config tells: expected num_classes in its heads. Set it there, or take '
            'FineTuneHook out of custom_hooks.'
        )
    return found


def _by_shape(model_cfg: Any) -> Layers:
    """Compare the shapes of a model with those of one with a class more."""
    plain, more = _copied(model_cfg), _copied(model_cfg)
    counts = [part['num_classes'] for part in _heads(plain)]
    if not counts:
        return {}
    classes = counts[0]
    for part in _heads(more):
        if part['num_classes'] == classes:
            part['num_classes'] += 1
    try:
        shapes, larger = _shapes(plain), _shapes(more)
    except Exception:  # constructors raise anything, for a class too many as well
        return {}
    return {
        name: layout_between(name, shape, larger[name], classes)
        for name, shape in shapes.items()
        if name in larger and larger[name] != shape
    }


def build_empty(model_cfg: Any) -> Any:
    """Build a model from no random numbers of this run, and without memory.

    A model whose constructor computes with values takes memory after all.

    Args:
        model_cfg: as ``cfg.model``; not changed.
    """
    from mmdet.registry import MODELS

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with torch.device('meta'):
                return MODELS.build(_copied(model_cfg))
        except (RuntimeError, NotImplementedError):
            return MODELS.build(_copied(model_cfg))


def _shapes(model_cfg: Any) -> dict[str, tuple[int, ...]]:
    state = build_empty(model_cfg).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _copied(value: Any) -> Any:
    """Copy the dicts and lists of a config, and nothing else."""
    if isinstance(value, dict):
        return type(value)({key: _copied(one) for key, one in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)([_copied(one) for one in value])
    return value


def _heads(part: Any) -> Iterator[Any]:
    """Yield every dict with a number of classes, of whatever depth."""
    if isinstance(part, (list, tuple)):
        for one in part:
            yield from _heads(one)
    elif isinstance(part, dict):
        count = part.get('num_classes')
        if isinstance(count, int) and count > 0:
            yield part
        for key, one in part.items():
            if key not in _OTHER_PARTS:
                yield from _heads(one)
