"""Reading and writing of checkpoint files, always with ``weights_only=True``."""

from __future__ import annotations

import os
import pickle
import re
import stat
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eca_mmdet.checkpoints import unpickling
from eca_mmdet.utils.errors import MissingWeightsError, UserError, WeightsError
from eca_mmdet.utils.io import sha256_of, whole_file
from eca_mmdet.utils.text import clipped

_WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'state_dict_ema', 'net')
_TORCH_MAGIC = (b'PK\x03\x04', b'\x80\x02\x8a\x0a')  # since torch 1.6; before
_PREFIXES = ('module.', '_orig_mod.')  # DataParallel, torch.compile


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: str
    state: dict[str, Tensor]  # names without the prefix
    container: str  # 'safetensors' or 'PyTorch'
    wrapper: str = ''  # key of the dict of tensors, if it is not a bare state dict
    prefix: str = ''  # e.g. 'module.'
    extras: dict[str, Any] = field(default_factory=dict)  # 'epoch', 'arch', 'meta', ...
    # From a safetensors file, or a file that this package wrote.
    metadata: dict[str, str] = field(default_factory=dict)

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

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return sha256_of(self.path)


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


def read_checkpoint(path: str | Path, trust: Iterable[str] = ()) -> Checkpoint:
    """Read a state dict, bare or wrapped, without running anything in the file.

    While the result is in use, another call for the same unchanged file returns it as
    well; do not change its dicts and tensors.

    Args:
        path: local file; its content decides on the format, not its name.
        trust: dotted names of further classes that unpickling may use.
    """
    path, trust = Path(path), tuple(trust)
    head = _read_head(path)
    now = path.stat()
    key = str(path), path.resolve(), now.st_mtime_ns, now.st_size, trust
    file = _in_use.get(key)
    if file is None:
        file = _in_use[key] = _read(path, head, trust)
    return file


read_weights = read_checkpoint


def _read(path: Path, head: bytes, trust: tuple[str, ...]) -> Checkpoint:
    if head[8:9] == b'{' and not head.startswith(_TORCH_MAGIC[0]):
        return _read_safetensors(path)
    reason = _not_weights(head)
    if reason:
        raise WeightsError(f'{path} {reason}', code='checkpoint-unrecognised')
    content = _read_torch(path, trust)
    wrapper, state = unwrap(path, content)
    _require_plain(path, state)
    prefix, state = strip_prefix(state)
    extras = {k: v for k, v in content.items() if k != wrapper} if wrapper else {}
    ours = _mapping(_mapping(extras.get('meta')).get('eca_mmdet'))
    texts = {k: v for k, v in ours.items() if isinstance(k, str) and isinstance(v, str)}
    return Checkpoint(str(path), state, 'PyTorch', wrapper, prefix, extras, texts)


def _read_head(path: Path) -> bytes:
    """Return the first 512 bytes of a regular file with content."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe would never end
            kind = 'a folder' if stat.S_ISDIR(mode) else 'not a regular file'
            raise WeightsError(f'{path} is {kind}.', code='file-unreadable')
        with path.open('rb') as file:
            head = file.read(512)
    except FileNotFoundError:
        raise MissingWeightsError(f'checkpoint {str(path)!r} does not exist.') from None
    except OSError as error:
        raise WeightsError(
            f'{path} cannot be read: {error.strerror}.', code='file-unreadable'
        ) from error
    if not head:
        raise WeightsError(f'{path} is empty. Get the file again.', code='file-empty')
    return head


def _not_weights(head: bytes) -> str:
    """Return what a file is instead of a checkpoint, by its first bytes, or ''."""
    if head.lstrip()[:1] == b'<':
        return (
            'is a web page, not weights: a download that ended at a log-in, quota or '
            'error page. Open its address in a browser and save the file itself.'
        )
    if head[257:262] == b'ustar':
        return (
            'is a tar archive, not weights. (The .pth.tar files of the ECA-Net authors '
            'are no archives: use them as they were downloaded, never repacked.)'
        )
    if head[:2] == b'\x1f\x8b':
        return 'is gzip-compressed. Unpack it and give the file inside.'
    if head.startswith(b'version https://git-lfs'):
        return 'is a Git LFS pointer, not the file: run git lfs pull.'
    if head.startswith(_TORCH_MAGIC):
        return ''
    if head[:1] == b'\x80':
        return (
            'is a plain Python pickle, not PyTorch weights. Reading one can run any '
            'code, so it is not read.'
        )
    return f'is not a checkpoint: neither PyTorch nor safetensors ({head[:8]!r}...).'


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework='pt') as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, RuntimeError, OSError) as error:
        # RuntimeError: it cannot be mapped into memory.
        raise WeightsError(
            f'{path} is damaged or cut off ({error}). Get the file again.',
            code='file-unreadable',
        ) from error
    if not state:
        raise WeightsError(f'{path} holds no tensors.', code='checkpoint-unrecognised')
    _require_plain(path, state)
    return Checkpoint(str(path), state, 'safetensors', metadata=metadata)


def _read_torch(path: Path, trust: tuple[str, ...]) -> Any:
    with unpickling.trusting(trust):
        unpickling.allow_numpy()
        try:
            unpickling.require_proportion(path)
            return _load(path)
        except Exception as error:  # torch raises a dozen types for broken files
            if 'mmengine' not in str(error):
                raise refusal(path, error) from error
        # What mmengine writes beside the tensors; importing it takes a second.
        unpickling.allow_mmengine_checkpoints()
        try:
            return _load(path)
        except Exception as error:
            raise refusal(path, error) from error


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about old forms, in a rejected file
        return torch.load(path, map_location='cpu', weights_only=True)


def refusal(path: str | Path, error: Exception) -> WeightsError:
    """Explain why unpickling failed: code, an unknown class, or damage."""
    if isinstance(error, UserError):
        return WeightsError(f'{path} was refused: {error}', code='checkpoint-unsafe')
    found = re.search(r'GLOBAL `?([\w.]+)', str(error))
    if not isinstance(error, pickle.UnpicklingError) or not found:
        inner = str(error).rpartition('WeightsUnpickler error: ')[2]
        line = next(iter(inner.splitlines()), '') or type(error).__name__
        return WeightsError(
            f'{path} cannot be read as PyTorch weights (weights_only=True): it is '
            f'damaged, cut off or something else ({clipped(line, 120)}). Get the file '
            'again.',
            code='file-unreadable',
        )
    name = found[1][:200].rstrip('.')
    name = name if '.' in name else f'builtins.{name}'
    if unpickling.never_trusted(name):
        return WeightsError(
            f'{path} was refused: reading it would call {name}, which weights never '
            'need. It is built to run code; do not use it.',
            code='checkpoint-unsafe',
        )
    return WeightsError(
        f'{path} was refused: reading it needs {name}, which is not among the plain '
        'tensors that are read (weights_only=True). If you trust whoever made it, '
        f'and {name} is a class that does no more than hold values, convert it once: '
        f'eca-mmdet weights convert {path} NEW.safetensors --trust {name}',
        code='checkpoint-unsafe',
    )


def unwrap(path: str | Path, content: Any) -> tuple[str, dict[str, Tensor]]:
    """Return the dict of tensors in an unpickled file, and its key or ''."""
    if isinstance(content, dict):
        for wrapper in ('', *_WRAPPERS):
            state = content if not wrapper else content.get(wrapper)
            if (
                isinstance(state, dict)
                and state
                and all(isinstance(key, str) for key in state)
                and all(isinstance(value, Tensor) for value in state.values())
            ):
                return wrapper, dict(state)
    found = type(content).__name__
    if isinstance(content, dict):
        keys = ', '.join(clipped(str(key)) for key in list(content)[:5]) or 'nothing'
        found = f'a dict with {keys}'
    raise WeightsError(
        f'{path} holds no state dict: expected a dict of tensors, bare or under '
        f"'state_dict'; got {found}.",
        code='checkpoint-unrecognised',
    )


def strip_prefix(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix that a wrapper put before every name, and the bare state."""
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return prefix, {key.removeprefix(prefix): v for key, v in state.items()}
    return '', dict(state)


def _require_plain(path: Path, state: Mapping[str, Tensor]) -> None:
    """Reject unprintable names, and tensors without plain values."""
    for key, tensor in state.items():
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
) -> None:
    """Write a .safetensors or .pth file, with text entries; whole, or not at all."""
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
                content = {'state_dict': state, 'meta': {'eca_mmdet': metadata}}
                torch.save(content, partial)
            else:
                # The format has no tensors that share memory or are strided.
                own = {k: v.detach().clone().contiguous() for k, v in state.items()}
                save_file(own, partial, metadata={'format': 'pt', **metadata})
    except (OSError, RuntimeError, SafetensorError) as error:
        # A full disk: torch raises RuntimeError, safetensors its own.
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise WeightsError(
            f'{path} cannot be written ({reason}). Nothing was left there; check the '
            'folder and the space on its disk.',
            code='file-not-written',
        ) from error
