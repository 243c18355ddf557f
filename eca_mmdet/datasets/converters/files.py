"""Files of datasets of other tools: folders, splits, and XML that may be hostile."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from eca_mmdet.datasets.converters.labels import ConversionLog
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped

IMAGE_ENDINGS = frozenset(
    '.avif .bmp .dng .gif .heic .heif .jp2 .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm '
    '.tif .tiff .webp'.split()
)
SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}
"""What folders of a split are called, and what it is called here."""

_MOST_BYTES = 1 << 28


def files_below(folder: Path, endings: Iterable[str]) -> Iterator[Path]:
    """Yield the files of a folder and those below, in order of their names.

    Links to folders are followed, each folder once. Hidden names are passed over.
    """
    endings = frozenset(endings)
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings and name[0] != '.':
                yield Path(parent, name)


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders directly below that are called as splits are."""
    found: dict[str, Path] = {}
    for name, split in SPLITS.items():
        if (folder / name).is_dir():
            found.setdefault(split, folder / name)
    return found


def supervision_formats(name: str) -> Any:
    """Return a module of supervision, which reads the labels.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(f'supervision.dataset.formats.{name}')
    except ImportError as error:
        raise MissingPackageError(
            'reading the labels of other tools needs supervision 0.31 or newer '
            f"({error}). Install it: pip install 'eca-mmdet[data]'"
        ) from error


def parse(path: Path) -> Any:
    """Return the root element; entities are refused, for they can fill the memory.

    Raises:
        ValueError: it is not XML, or has a document type of its own.
        UserError: it cannot be read.
        MissingPackageError: defusedxml is not installed.
    """
    try:
        from defusedxml.ElementTree import fromstring
    except ImportError as error:
        raise MissingPackageError(
            'reading XML needs defusedxml, which is not installed. Install it: '
            "pip install 'eca-mmdet[data]'"
        ) from error
    raw = read_file(path, 'label file', _MOST_BYTES)
    try:
        return fromstring(raw)
    except (ParseError, LookupError) as error:  # no XML; an encoding that is none
        raise ValueError(str(error)) from None


def read_xml(path: Path, log: ConversionLog) -> Any:
    """Return the root element, or None where it is not XML: that is logged."""
    try:
        return parse(path)
    except (ValueError, UserError) as error:
        if isinstance(error, MissingPackageError):
            raise
        reason = ' '.join(str(error).split())
        log.add(
            'label files left out that cannot be read, with their images',
            f'{path.name}: {clipped(reason, 80)}',
        )
        return None


def root_tag(path: Path) -> str:
    """Return the name of a file's root element; '' if it is not XML.

    Read from the beginning of the file alone.
    """
    try:
        with path.open('rb') as file:
            head = file.read(4096)
    except OSError:
        return ''
    found = re.search(rb'<([A-Za-z_][\w.-]*)[\s>/]', head)
    return found[1].decode() if found else ''
