"""Recognition of files that are no checkpoints, by their content."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eca_mmdet.utils.text import clipped, first

_PACKED = 'Unpack it and give the file inside.'
_KINDS = (
    (
        rb'\s*<',
        'a web page, not weights: a download that ended at a log-in, quota or error '
        'page. Open its address in a browser and save the file itself.',
    ),
    (
        rb'(?s).{257}ustar',
        'a tar archive, not weights. (The .pth.tar files of the ECA-Net authors are no '
        'archives: use them as they were downloaded, never repacked.)',
    ),
    (rb'\x1f\x8b', f'gzip-compressed. {_PACKED}'),
    (rb'BZh|\xfd7zXZ|\x28\xb5\x2f\xfd', f'compressed (bzip2, xz or zstd). {_PACKED}'),
    (rb'Rar!|7z\xbc\xaf', f'a RAR or 7z archive. {_PACKED}'),
    (rb'PK\x05\x06', 'an empty zip archive. Get the file again.'),
    (
        rb'version https?://(git-lfs|hawser)',
        'a Git LFS pointer, not the file: run git lfs pull.',
    ),
    (
        rb'\x80[\x00-\x05]',
        'a plain Python pickle, not PyTorch weights. Reading one can run any code, so '
        'it is not read.',
    ),
    (
        rb'\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]',
        'an ONNX model, whose tensors are not read here. Give the checkpoint that it '
        'was exported from.',
    ),
    (
        rb'\x89HDF|.{4}TFL3|GGUF|\x93NUMPY|caff',
        'a file of another framework (Keras or HDF5, TensorFlow Lite, GGUF, NumPy). '
        'Expected PyTorch weights or safetensors.',
    ),
    (rb'\x89PNG|\xff\xd8\xff|GIF8|RIFF|%PDF', 'an image or a document, not weights.'),
    (
        rb'\s*[\[{]\s*["\]}{\[]',
        'JSON, not weights: a message of a server, or an index that names the files '
        'with the tensors. Give one of those.',
    ),
    (rb'\x00{512}', 'all zeros: a download that was never written. Get it again.'),
)


def kind_of(head: bytes) -> str:
    """Return what a file is instead of a checkpoint, from its first 512 bytes."""
    text = head.removeprefix(b'\xef\xbb\xbf')
    if head[:2] in (b'\xff\xfe', b'\xfe\xff'):  # UTF-16
        text = head[2:].replace(b'\0', b'')
    for pattern, kind in _KINDS:
        if re.match(pattern, text):
            return f'is {kind}'
    return f'is not a checkpoint: neither PyTorch nor safetensors ({head[:8]!r}...).'


def zip_kind(names: Sequence[str]) -> str:
    """Return what a zip archive is instead of a checkpoint, or ''."""
    inside = {name.rpartition('/')[2] for name in names}
    if 'constants.pkl' in inside or any('/code/' in name for name in names):
        return (
            'is a TorchScript archive: a program with its weights. Give the checkpoint '
            'that it was made from, or save torch.jit.load(FILE).state_dict() with '
            'torch.save.'
        )
    if 'data.pkl' in inside:
        return ''
    if 'archive_format' in inside:
        return 'is an exported program (torch.export), not a state dict.'
    if names and all(name.endswith('.npy') for name in names):
        return 'is an archive of NumPy arrays, not PyTorch weights.'
    shown = first([clipped(name) for name in names], 3) or 'nothing'
    return f'is a zip archive with {shown}, not weights. {_PACKED}'
