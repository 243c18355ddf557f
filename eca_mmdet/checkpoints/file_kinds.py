"""Recognition of files that are no checkpoints, by their content."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eca_mmdet.utils.text import clipped, first

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


def kind_of(head: bytes) -> str:
    """Return what a file is instead of a checkpoint, from its first 512 bytes."""
    text = head.removeprefix(b'\xef\xbb\xbf')
    if head[:2] in (b'\xff\xfe', b'\xfe\xff'):  # UTF-16
        text = head[2:].replace(b'\0', b'')
    for pattern, kind in _KINDS.items():
        if re.match(pattern, text):
            return f'is {kind}'
    return f'is not a checkpoint: neither PyTorch nor safetensors ({head[:8]!r}...).'


def zip_kind(names: Sequence[str]) -> str:
    """Return what a zip archive is instead of a checkpoint, or ''."""
    inside = {name.rpartition('/')[2] for name in names}
    if 'constants.pkl' in inside:
        return (
            'is a TorchScript archive: a program with its weights. Give the checkpoint '
            'that it was made from, or save torch.jit.load(FILE).state_dict() with '
            'torch.save.'
        )
    if 'data.pkl' in inside:
        return ''
    if 'archive_format' in inside:
        return 'is a program that torch.export saved, not a state dict.'
    shown = first([clipped(name) for name in names]) or 'nothing'
    return (
        f'is a zip archive of {shown}, not weights. Unpack it and give a file inside.'
    )
