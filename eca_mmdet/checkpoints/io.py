"""Reading and writing of checkpoint files, always with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import stat
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eca_mmdet import compat
from eca_mmdet.checkpoints import unpickling
from eca_mmdet.checkpoints.state_dicts import StateDict, find_state
from eca_mmdet.utils.errors import MissingWeightsError, UserError, WeightsError
from eca_mmdet.utils.io import sha256_of, whole_file
from eca_mmdet.utils.text import clipped

_TORCH_MAGIC = (b'PK\x03\x04', b'\x80\x02\x8a\x0a')  # since torch 1.6; before
_KINDS = {  # first bytes, and what the file is
    rb'\s*<': (
        'a web page, not weights: a download that ended at a log-in, quota or error '
        'page. Open its address in a browser and save the file itself.'
    ),
    rb'(?s).{257}ustar': (
        'a tar archive, not weights. (The .pth.tar files of the ECA-Net authors are no '
        'archives: use them as they were downloaded, never repacked.)'
    ),
    rb'\x1f\x8b': 'gzip-compressed. Unpack it and give the file inside.',
    rb'BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|Rar!|7z\xbc\xaf|PK\x05\x06': (
        'a compressed archive. Unpack it and give the file inside.'
    ),
    rb'version https?://': 'a Git LFS pointer, not the file: run git lfs pull.',
    rb'\x80[\x00-\x05]': (
        'a plain Python pickle, not PyTorch weights. Reading one can run any code, so '
        'it is not read.'
    ),
    rb'\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]': (
        'an ONNX model. Give the checkpoint that it was exported from.'
    ),
    rb'(?s)\x89HDF|.{4}TFL3|GGUF|\x93NUMPY': (
        'a file of another library (HDF5, TensorFlow Lite, GGUF or NumPy).'
    ),
    rb'\x89PNG|\xff\xd8\xff|GIF8|RIFF|%PDF': 'an image or a document, not weights.',
    rb'\s*[\[{]\s*["\]}{\[]': (
        'JSON, not weights: a message of a server, or an index of files with tensors.'
    ),
    rb'\0{512}': 'all zeros: a download that did not end. Get the file again.',
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint(StateDict):
    """The content of a checkpoint file."""

    path: str
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


_LONGEST_HEADER = 8 << 20
"""Bytes of a safetensors header, which has about 100 for a tensor."""

_MOST_TENSORS = 20_000
"""In a safetensors file; the largest detectors of mmdet have 4,000."""

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
            with path.open('rb') as file:
                found = _in_use[known] = _read(path, file, trust, key)
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


def _read(path: Path, file: IO[bytes], trust: tuple[str, ...], key: str) -> Checkpoint:
    head = file.read(512)
    if not head:
        raise WeightsError(f'{path} is empty. Get the file again.', code='file-empty')
    file.seek(0)
    text = re.fullmatch(rb'[\s -~]{8}', head[:8])  # no number of bytes
    if head[8:9] == b'{' and not text and not head.startswith(_TORCH_MAGIC[0]):
        content, metadata = _read_safetensors(path, file)
        found = as_checkpoint(path, content, key)
        found = replace(found, container='safetensors', metadata=metadata)
    elif head.startswith(_TORCH_MAGIC):
        found = as_checkpoint(path, _read_torch(path, file, trust), key)
    else:
        raise WeightsError(f'{path} {_kind_of(head)}', code='checkpoint-unrecognised')
    file.seek(0)  # hashed last: a file that is refused may have 100 GiB of zeros
    return replace(found, sha256=sha256_of(file))


def _kind_of(head: bytes) -> str:
    """Return what a file is instead of a checkpoint, from its first 512 bytes."""
    text = head.removeprefix(b'\xef\xbb\xbf')
    if head[:2] in (b'\xff\xfe', b'\xfe\xff'):  # UTF-16
        text = head[2:].replace(b'\0', b'')
    for pattern, kind in _KINDS.items():
        if re.match(pattern, text):
            return f'is {kind}'
    return f'is not a checkpoint: neither PyTorch nor safetensors ({head[:8]!r}...).'


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
    return Checkpoint(path=str(path), metadata=texts, **vars(found))


def _read_safetensors(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, str]]:
    """Return tensors and text entries of a file whose header is not excessive.

    The library checks types, shapes and places, but no numbers and repeated names.
    """
    try:
        length = int.from_bytes(file.read(8), 'little')
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError(f'its header would have {length:,} bytes')
        if length > _LONGEST_HEADER:
            raise unpickling.excessive(f'its header has {length:,} bytes')
        header = json.loads(file.read(length), object_pairs_hook=list)
        names = [name for name, _ in header]
        places = [dict(v)['data_offsets'] for k, v in header if k != '__metadata__']
        empty = [begin for begin, end in places if begin == end]
        if len(names) > _MOST_TENSORS:
            raise unpickling.excessive(f'it has {len(names):,} tensors')
        if len({*names}) < len(names) or len({*empty}) < len(empty):
            raise unpickling.excessive('it has a name or an empty tensor twice')
        with safe_open(path, framework='pt') as opened:
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return state, opened.metadata() or {}
    except WeightsError as error:
        raise refusal(path, error) from error
    except Exception as error:  # json's, the library's, those of odd values
        reason = clipped(str(error), 120)
        raise WeightsError(
            f'{path} is damaged or cut off ({reason}). Get the file again.',
            code='file-unreadable',
        ) from error


def _read_torch(path: Path, file: IO[bytes], trust: tuple[str, ...]) -> Any:
    with unpickling.trusting(trust), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about old forms, in a rejected file
        try:
            histories = any(n.startswith('mmengine.') for n in unpickling.scan(file))
            unpickling.allow_mmengine_checkpoints(histories)
            file.seek(0)
            return torch.load(file, map_location='cpu', weights_only=True)
        except Exception as error:  # torch raises a dozen types for broken files
            raise refusal(path, error) from error


def refusal(path: str | Path, error: Exception) -> WeightsError:
    """Explain why unpickling failed: code, an unknown class, or damage."""
    if isinstance(error, UserError):
        refused = ' was refused:' if error.code == 'checkpoint-unsafe' else ''
        return WeightsError(f'{path}{refused} {error}', code=error.code)
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
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise WeightsError(
            f'{path} cannot be written ({reason}). Nothing was left there; check the '
            'folder and the space on its disk.',
            code='file-not-written',
        ) from error
