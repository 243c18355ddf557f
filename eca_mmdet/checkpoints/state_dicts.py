"""State dicts in the content of a file: entries, prefixes, averaged copies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from eca_mmdet.checkpoints.key_maps import CLASSIFIER
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.text import clipped, first

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
_WRAPPER = re.compile(r'(module|model|net|network|student|teacher|ema|ema_model)\.')
_KNOWN = re.compile(
    r'(?P<prefix>([\w-]+\.)*?)((?P<detector>(bbox_head|roi_head|rpn_head)\.)'
    r'|(backbone\.)?(layer1\.0\.\w*conv|features\.0\.0\.weight))'
)


class StateDict(NamedTuple):
    """The state dict that is read from a file."""

    state: dict[str, Tensor]  # names without the prefix
    wrapper: str  # key of the dict of tensors, e.g. 'ema.module', or ''
    prefix: str  # before the names, e.g. '_orig_mod.module.', or ''
    extras: dict[str, Any]  # everything else in the file
    choices: tuple[str, ...]  # keys of further sets of the same tensors
    sources: dict[str, str]  # names to the file's
    raw: Mapping[str, Any]  # under the file's names


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
    chosen = next((p for p in sets if called or _is_called(p, key)), None)
    chosen = next(iter(sets)) if not key else chosen
    others = [p.rstrip('.') for p in sets if p != chosen]
    if chosen is None:
        names = first([*(entry for entry, _ in entries if entry), *others], 6)
        raise WeightsError(
            f'has no weights called {clipped(key)!r}. It has: {names or "one set"}.',
            code='option-invalid',
        )
    sources = sets[chosen]
    choices = [
        entry
        for entry, value in entries
        if entry != wrapper and _is_copy(next(iter(_sets(value).values())), sources)
    ]
    prefixes = Counter(
        name[: -len(own)] for own, name in sources.items() if name.endswith(own)
    )
    return StateDict(
        {own: raw[name] for own, name in sources.items()},
        wrapper,
        prefixes.most_common(1)[0][0] if prefixes else chosen,
        _extras(content, wrapper, raw, set(sources.values())),
        (*choices, *others),
        sources,
        raw,
    )


def _entries(content: Any, path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and dict of each state dict, at most two entries deep."""
    if not isinstance(content, Mapping) or not content:
        return
    names = [k for k, v in content.items() if isinstance(k, str)]
    tensors = [name for name in names if isinstance(content[name], Tensor)]
    whole = len(tensors) == len(content) and (not path or _ENTRY.search(path))
    if whole or any(_KNOWN.match(_INSERTED.sub('', name)) for name in tensors):
        yield path, content
    elif path.count('.') < 1:
        for name in names:
            if not _OTHER.search(name):
                yield from _entries(content[name], f'{path}.{name}' if path else name)


def _rank(entry: tuple[str, Mapping[str, Any]]) -> tuple[bool, bool, int]:
    name, state = entry
    known = any(_KNOWN.match(_INSERTED.sub('', key)) for key in state)
    usual = _ENTRIES.index(name) if name in _ENTRIES else len(_ENTRIES)
    return not known, _AVERAGE.search(name) is not None, usual


def _is_called(name: str, key: str) -> bool:
    return bool(key) and key in (name.rstrip('.'), name.split('.')[0])


def _sets(raw: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the sets of tensors in a state dict by prefix, the preferred first.

    Each maps names without the prefix to the file's. Only the first may have tensors
    that no other has.
    """
    names: dict[str, str] = {}
    for original, tensor in raw.items():
        if isinstance(original, str) and isinstance(tensor, Tensor):
            name = _INSERTED.sub('', original)
            if names.setdefault(name, original) != original:
                raise WeightsError(
                    f'two tensors are the same one: {names[name]} and {original}.',
                    code='checkpoint-unrecognised',
                )
    found: dict[str, bool] = {}  # prefix to whether it is before a detector's heads
    for match in filter(None, map(_KNOWN.match, names)):
        detector = match['detector'] is not None
        found[match['prefix']] = detector or found.get(match['prefix'], False)
    if not found:
        counters = [k for k in names if '.' not in k and raw[names[k]].dim() == 0]
        found = {_common(names.keys() - counters): False}
    order = sorted(found, key=lambda p: (_AVERAGE.search(p) is not None, not found[p]))
    sets = {p: _under(p, names) for p in order}
    preferred = order[0]
    sets = {
        p: own
        for p, own in sets.items()
        if p == preferred or _is_copy(own, sets[preferred])
    }
    for prefix in order[1:]:
        if prefix in sets and not preferred:
            copied = set(sets[prefix].values())
            sets[''] = {k: v for k, v in sets[''].items() if v not in copied}
    return sets


def _under(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return the names after a prefix; of a classifier inside a module, its own."""
    own = {k[len(prefix) :]: v for k, v in names.items() if k.startswith(prefix)}
    inner = {k[9:]: v for k, v in own.items() if k.startswith('backbone.')}
    return inner if any(map(CLASSIFIER.fullmatch, inner)) else own


def _common(names: Iterable[str]) -> str:
    """Return the names of wrappers before all names."""
    names, prefix = list(names), ''
    while (match := _WRAPPER.match(names[0], len(prefix)) if names else None) and all(
        name.startswith(names[0][: match.end()]) for name in names
    ):
        prefix = names[0][: match.end()]
    return prefix


def _is_copy(names: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Return whether nearly all names are among others, and half of those here."""
    common = len(names.keys() & others.keys())
    return common >= 0.9 * len(names) and 2 * common >= len(others)


def _extras(
    content: Mapping[str, Any], wrapper: str, raw: Mapping[str, Any], used: set[str]
) -> dict[str, Any]:
    """Return what is not the chosen set, tensors of other modules together."""
    top, _, inner = wrapper.partition('.')
    extras = {k: v for k, v in content.items() if k != top} if wrapper else {}
    if inner:
        beside = content[top].items()
        extras |= {f'{top}.{k}': v for k, v in beside if k != inner}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in raw.items():
        group, _, rest = str(name).partition('.')
        if name in used:
            continue
        if rest and group not in extras:
            groups.setdefault(group, {})[rest] = value
        else:
            extras[name] = value
    return extras | groups
