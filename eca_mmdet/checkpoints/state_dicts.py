"""State dicts in the content of a file: entries, prefixes, averaged copies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eca_mmdet.checkpoints.key_maps import CLASSIFIER
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import clipped, first

Names = dict[str, str]
"""Names without a prefix to the file's."""

_ENTRIES = ('', 'state_dict', 'model', 'model_state_dict', 'net', 'network', 'module')
"""Usual keys of a dict of tensors, the preferred first."""

_ENTRY = re.compile(r'state|weights|model|net|module|params|ema|teacher|student', re.I)
_OTHER = re.compile(r'optim|grad|sched|scaler|hub|meta', re.I)
_AVERAGE = re.compile(
    r'(^|[._])(ema|teacher|averaged?|swa|target|momentum|shadow|encoder_k)([._]|$)'
)
_INSERTED = re.compile(  # by torch.compile, FSDP, activation checkpointing, Fabric
    r'(?<![^.])'
    r'(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.'
)
_WRAPPERS = re.compile(r'((module|model|net|network|student|teacher|ema|ema_model)\.)*')
_KNOWN = re.compile(
    r'(?P<prefix>([\w-]+\.)*?)((?P<detector>(bbox_head|roi_head|rpn_head)\.)'
    r'|(backbone\.)?(layer1\.0\.\w*conv|features\.0\.0\.weight))'
)


@dataclass(frozen=True)
class StateDict:
    """The state dict that is read from a file."""

    state: dict[str, Tensor]  # names without the prefix
    wrapper: str = ''  # key of the dict of tensors, e.g. 'ema.module'
    prefix: str = ''  # before the names, e.g. '_orig_mod.module.'
    extras: dict[str, Any] = field(default_factory=dict)  # 'epoch', 'arch', 'meta', ...
    choices: tuple[str, ...] = ()  # keys of further sets of the same tensors
    sources: Names = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)  # under the file's names


def find_state(content: Any, key: str = '') -> StateDict | None:
    """Find the state dict in a file's content, or None.

    Of several the plain one is preferred to averages. ``key`` is the entry or prefix of
    another, one of ``choices``.
    """
    entries = sorted(_entries(content), key=_rank)
    if not entries:
        return None
    called = [entry for entry in entries if _is_called(entry[0], key)]
    wrapper, raw = (called or entries)[0]
    sets = _sets(raw)
    wanted = [p for p in sets if called or not key or _is_called(p, key)]
    if not wanted:
        names = [name.rstrip('.') for name in (*dict(entries), *sets) if name]
        raise WeightsError(
            f'has no weights called {clipped(key)!r}, only {first(names, 6) or "one"}.',
            code='option-invalid',
        )
    sources = sets[wanted[0]]
    copies = [
        name
        for name, other in entries
        if name != wrapper and _is_copy(next(iter(_sets(other).values())), sources)
    ]
    copies += [prefix.rstrip('.') for prefix in sets if prefix not in ('', wanted[0])]
    top, _, inner = wrapper.partition('.')
    extras = {k: v for k, v in content.items() if k != top} if wrapper else {}
    if inner:
        extras |= {f'{top}.{k}': v for k, v in content[top].items() if k != inner}
    used = set(sources.values())
    for name in (name for name in raw if name not in used):
        prefix, dot, rest = str(name).partition('.')
        if rest:
            extras.setdefault(prefix + dot, {})[rest] = raw[name]
        else:
            extras[name] = raw[name]
    prefixes = (v.removesuffix(k) for k, v in sources.items() if v.endswith(k))
    state = {own: raw[name] for own, name in sources.items()}
    start = next(prefixes, wanted[0])
    return StateDict(state, wrapper, start, extras, tuple(copies), sources, raw)


def _entries(content: Any, path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and content of each dict of tensors, at most two entries deep."""
    if not isinstance(content, Mapping):
        return
    names = [name for name in content if isinstance(name, str)]
    tensors = [name for name in names if isinstance(content[name], Tensor)]
    whole = tensors and len(tensors) == len(content)
    if (whole and (not path or _ENTRY.search(path))) or any(map(_known, tensors)):
        yield path, content
    elif '.' not in path:
        for name in names:
            if not _OTHER.search(name):
                yield from _entries(content[name], f'{path}.{name}' if path else name)


def _known(name: str) -> re.Match[str] | None:
    return _KNOWN.match(_INSERTED.sub('', name))


def _rank(entry: tuple[str, Mapping[str, Any]]) -> tuple[bool, bool, int]:
    name, state = entry
    usual = _ENTRIES.index(name) if name in _ENTRIES else len(_ENTRIES)
    known = any(isinstance(key, str) and _known(key) for key in state)
    return not known, bool(_AVERAGE.search(name)), usual


def _is_called(name: str, key: str) -> bool:
    return bool(key) and key in (name.rstrip('.'), name.split('.')[0])


def _sets(raw: Mapping[str, Any]) -> dict[str, Names]:
    """Return the sets of the same tensors by prefix, the plain one first."""
    names: Names = {}
    for original, tensor in raw.items():
        if isinstance(original, str) and isinstance(tensor, Tensor):
            name = _INSERTED.sub('', original)
            if names.setdefault(name, original) != original:
                raise WeightsError(
                    f'has one tensor twice: {names[name]} and {original}.',
                    code='checkpoint-unrecognised',
                )
    found: dict[str, Any] = {}  # prefix to whether it is before a detector's heads
    for match in filter(None, map(_KNOWN.match, names)):
        found[match['prefix']] = match['detector'] or found.get(match['prefix'])
    # Others than n_averaged, steps and the like, which have no prefix.
    others = {k: v for k, v in names.items() if '.' in k or raw[v].dim()}
    if found:
        names = others
    else:
        start = _WRAPPERS.match(os.path.commonprefix(list(others)))
        found[start[0] if start else ''] = False
    order = sorted(found, key=lambda p: (bool(_AVERAGE.search(p)), not found[p]))
    sets = {prefix: _after(prefix, names) for prefix in order}
    plain = sets[order[0]]
    sets = {p: own for p, own in sets.items() if own is plain or _is_copy(own, plain)}
    if order[0] == '':
        copied = {v for p, own in sets.items() if p for v in own.values()}
        sets[''] = {k: v for k, v in plain.items() if v not in copied}
    return sets


def _after(prefix: str, names: Names) -> Names:
    """Return the names after a prefix; of a classifier inside a module, its own."""
    own = {k[len(prefix) :]: v for k, v in names.items() if k.startswith(prefix)}
    inner = {k[9:]: v for k, v in own.items() if k.startswith('backbone.')}
    return inner if any(map(CLASSIFIER.fullmatch, inner)) else own


def _is_copy(names: Names, others: Names) -> bool:
    """Return whether nearly all names are among others, and half of those here."""
    common = len(names.keys() & others.keys())
    return common >= 0.9 * len(names) and 2 * common >= len(others)
