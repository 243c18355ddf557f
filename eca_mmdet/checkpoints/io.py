"""Checkpoint files: the state dict among their entries, prefixes and averages."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import weakref
from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.checkpoints.key_maps import CLASSIFIER
from eca_mmdet.checkpoints.reading import read_content, refusal
from eca_mmdet.utils.errors import MissingWeightsError, WeightsError
from eca_mmdet.utils.io import sha256_of, whole_file
from eca_mmdet.utils.text import clipped, first, first_line

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
class Checkpoint:
    """The content of a checkpoint file; without the file's path, that of a dict."""

    state: dict[str, Tensor]  # names without the prefix
    wrapper: str = ''  # key of the dict of tensors, e.g. 'ema.module'
    prefix: str = ''  # before the names, e.g. '_orig_mod.module.'
    extras: dict[str, Any] = field(default_factory=dict)  # 'epoch', 'arch', 'meta', ...
    choices: tuple[str, ...] = ()  # keys of further sets of the same tensors
    sources: Names = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)  # under the file's names
    path: str = ''
    container: str = 'PyTorch'  # or 'safetensors'
    # From a safetensors file, or a file that this package wrote.
    metadata: dict[str, str] = field(default_factory=dict)
    sha256: str = ''

    def named_as(self, own: Container[str]) -> Checkpoint:
        """Return this with the names of a model, which may have the prefix itself."""
        if sum(k in own for k in self.raw) <= sum(k in own for k in self.state):
            return self
        own_names = {k: v for k, v in self.raw.items() if isinstance(v, Tensor)}
        return replace(self, state=own_names, prefix='')

    def content(self) -> dict[str, Any]:
        """Return the content as mmengine expects it."""
        state = OrderedDict(self.state)
        # Layers read there how old the names of their tensors are.
        metadata = compat.state_metadata(self.raw) or OrderedDict()
        compat.set_state_metadata(state, metadata)
        copies = {k: dict(v) if type(v) is dict else v for k, v in self.extras.items()}
        return {**copies, 'state_dict': state}

    @property
    def meta(self) -> Mapping[str, Any]:
        """What training wrote under ``meta``."""
        return _mapping(self.extras.get('meta'))

    @property
    def config(self) -> str:
        """Text of the config that mmengine saved, or ''."""
        text = self.meta.get('cfg')
        return text if isinstance(text, str) else ''

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names that mmdet saved; None if there are none."""
        data = _mapping(self.meta.get('dataset_meta'))
        for where, names in (
            ("meta['dataset_meta']['classes']", data.get('classes')),
            ("meta['dataset_meta']['CLASSES']", data.get('CLASSES')),  # mmdet 3.0.0rc
            ("meta['CLASSES']", self.meta.get('CLASSES')),  # mmdet 1.x and 2.x
        ):
            if names is not None:
                return require_names(names, f'{self.path}: {where}')
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def require_names(names: Any, what: str) -> tuple[str, ...]:
    """Return class names as a tuple; raise unless they are different strings."""
    if not isinstance(names, (list, tuple)) or not names:
        got = clipped(repr(names)) if isinstance(names, str) else type(names).__name__
        reason = f'must be a list of class names; got {got}'
    elif others := [name for name in names if not isinstance(name, str)]:
        other = clipped(repr(others[0]))
        reason = f'must be a list of class names; one of them is {other}'
    elif len(set(names)) < len(names):
        reason = f'has {clipped(Counter(names).most_common(1)[0][0])} twice'
    else:
        return tuple(names)
    raise WeightsError(
        f"{what} {reason}. Set the names of the file's classes, in its order, as "
        'source_classes of the FineTuneHook, or leave out keep_classes.',
        code='class-mismatch',
    )


_in_use: weakref.WeakValueDictionary[tuple[Any, ...], Checkpoint]
_in_use = weakref.WeakValueDictionary()
"""Checkpoints that a caller still holds: reading one of them again is free."""

_kept: list[list[Checkpoint]] = []


@contextlib.contextmanager
def each_read_once() -> Iterator[None]:
    """Keep the checkpoints that are read inside, until :func:`forget_checkpoints`."""
    _kept.append([])
    try:
        yield
    finally:
        _kept.pop()


def forget_checkpoints() -> None:
    """Free the memory of the checkpoints that are kept, and keep no others."""
    _in_use.clear()
    for files in _kept:
        files.clear()


def read_checkpoint(
    path: str | Path, trust: Iterable[str] = (), key: str = ''
) -> Checkpoint:
    """Read a state dict, bare or wrapped, without running anything in the file.

    The file's content decides on the format, not its name. ``trust`` names further
    classes that unpickling may use; ``key`` chooses one of several sets of tensors.

    While the result is in use, another call for the same unchanged file returns it as
    well; do not change its dicts and tensors.
    """
    path, trust = Path(path), tuple(trust)
    try:
        now = path.stat()
        if not stat.S_ISREG(now.st_mode):  # reading a pipe would never end
            kind = 'a folder' if stat.S_ISDIR(now.st_mode) else 'not a regular file'
            raise WeightsError(f'{path} is {kind}.', code='file-unreadable')
        known = now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size, trust, key
        found = _in_use.get(known)
        if found is None:
            found = _in_use[known] = _read(path, trust, key)
        elif found.path != str(path):
            found = _in_use[known] = replace(found, path=str(path))
    except FileNotFoundError:
        raise MissingWeightsError(f'checkpoint {str(path)!r} does not exist.') from None
    except OSError as error:
        raise WeightsError(
            f'{path} cannot be read: {error.strerror}.', code='file-unreadable'
        ) from error
    if _kept:
        _kept[-1].append(found)
    return found


read_weights = read_checkpoint


def _read(path: Path, trust: tuple[str, ...], key: str) -> Checkpoint:
    with path.open('rb') as file:
        container, content, texts = read_content(path, file, trust)
        found = as_checkpoint(path, content, key)
        file.seek(0)  # hashed last: a refused file may have 100 GiB of zeros
        digest, texts = sha256_of(file), found.metadata | texts
    return replace(found, container=container, metadata=texts, sha256=digest)


def as_checkpoint(path: str | Path, content: Any, key: str = '') -> Checkpoint:
    """Find the state dict in the content of a file; ``key`` chooses one of several."""
    try:
        found = find_state(content, key)
    except WeightsError as error:
        raise refusal(path, error) from error
    if found is None:
        got = type(content).__name__
        if isinstance(content, dict):
            keys = ', '.join(clipped(str(key)) for key in list(content)[:5])
            got = f'a dict with {keys or "nothing"}'
        raise WeightsError(
            f'{path} holds no state dict: expected a dict of tensors, bare or under '
            f"'state_dict'; got {got}.",
            code='checkpoint-unrecognised',
        )
    _require_plain(path, found.raw)
    ours = _mapping(_mapping(found.extras.get('meta')).get('eca_mmdet'))
    texts = {k: v for k, v in ours.items() if isinstance(k, str) and isinstance(v, str)}
    return replace(found, path=str(path), metadata=texts)


def find_state(content: Any, key: str = '') -> Checkpoint | None:
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
    return Checkpoint(state, wrapper, start, extras, tuple(copies), sources, raw)


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
    elif start := _WRAPPERS.match(os.path.commonprefix(list(others))):
        found[start[0]] = False  # '' where there is no wrapper
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


def _require_plain(path: str | Path, state: Mapping[str, Any]) -> None:
    """Reject unprintable names, and tensors without plain values."""
    tensors = {k: t for k, t in state.items() if isinstance(t, Tensor)}
    for key, tensor in tensors.items():
        if not key.isprintable():
            raise WeightsError(
                f'{path} was refused: a tensor name has control characters: '
                f'{clipped(repr(key))}.',
                code='checkpoint-unsafe',
            )
        plain = tensor.layout == torch.strided and not tensor.is_nested
        if not plain or tensor.is_meta or tensor.is_quantized:
            raise WeightsError(
                f'{path}: {clipped(key)} is not a plain tensor with values (it is '
                'sparse, nested, quantized or on the meta device).',
                code='checkpoint-unrecognised',
            )


def write_weights(
    path: str | Path,
    state: dict[str, Tensor],
    metadata: dict[str, str],
    force: bool = False,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a .safetensors or .pth file, with text entries; whole, or not at all.

    ``meta`` has further entries for a .pth file.
    """
    path = Path(path)
    if path.suffix not in ('.safetensors', '.pth'):
        raise WeightsError(
            f'{path}: write to a name in .safetensors or .pth.', code='option-invalid'
        )
    try:
        if os.path.lexists(path) and not force:
            raise WeightsError(
                f'{path} exists already; --force replaces it.', code='output-exists'
            )
        with whole_file(path) as partial:
            if path.suffix == '.pth':
                texts = {**(meta or {}), 'eca_mmdet': metadata}
                torch.save({'state_dict': state, 'meta': texts}, partial)
            else:
                # The format has no tensors that share memory or are strided.
                own = {k: v.detach().clone().contiguous() for k, v in state.items()}
                save_file(own, partial, metadata={'format': 'pt', **metadata})
    except (OSError, RuntimeError, SafetensorError) as error:
        # A full disk: torch raises RuntimeError, safetensors its own.
        reason = getattr(error, 'strerror', None) or first_line(error)
        raise WeightsError(
            f'{path} cannot be written ({reason}). Nothing was left there; check the '
            'folder and the space on its disk.',
            code='file-not-written',
        ) from error
