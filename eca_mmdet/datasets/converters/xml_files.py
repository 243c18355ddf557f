"""Read XML that may be hostile."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from eca_mmdet.datasets.converters.source import Told
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped

_MOST_BYTES = 1 << 28


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


def read_xml(path: Path, told: Told) -> Any:
    """Return the root element, or None where it is not XML: that is told."""
    try:
        return parse(path)
    except (ValueError, UserError) as error:
        if isinstance(error, MissingPackageError):
            raise
        reason = ' '.join(str(error).split())
        told.add(
            'label files left out that cannot be read, with their images',
            f'{path.name}: {clipped(reason, 80)}',
        )
        return None


def root_tag(path: Path) -> str:
    """Return the name of a file's root element; '' if it is not XML.

    Read from the beginning of the file alone.
    """
    import re

    try:
        with path.open('rb') as file:
            head = file.read(4096)
    except OSError:
        return ''
    found = re.search(rb'<([A-Za-z_][\w.-]*)[\s>/]', head)
    return found[1].decode() if found else ''
