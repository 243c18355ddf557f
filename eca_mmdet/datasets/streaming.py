"""Sound result files of any length, read a stretch at a time.

A Python object for each of five million detections takes three gigabytes. Whatever is
wrong with a file is left to whoever reads it whole, and can speak of all of it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 1 << 24
"""Bytes read at a time, about 150,000 detections; no entry is longer."""

_MARK = re.compile(r'[ \t\n\r]*([\[,])[ \t\n\r]*')
_END = re.compile(r'[ \t\n\r]*\][ \t\n\r]*')


class NotSoundError(Exception):
    """Something about the file that only reading it whole can name."""


@dataclass
class Stretches:
    """The entries of a JSON list of objects.

    Attributes:
        path: of the file.
        sha256: of its bytes, once all are read.
    """

    path: Path
    sha256: str = field(default='', init=False)

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield lists of entries, none of them empty.

        Raises:
            NotSoundError: the file is anything else.
        """
        if not self.path.is_file():  # a pipe can be read once
            raise NotSoundError
        digest = hashlib.sha256()
        decode = codecs.getincrementaldecoder('utf-8')('surrogatepass').decode
        text, expected = '', '['
        try:
            with open(self.path, 'rb') as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    text += decode(block)
                    entries, text = _take(text, expected)
                    if not entries:  # nor would there be any in twice as much
                        break
                    expected = ','
                    yield entries
            text += decode(b'', final=True)
        except (OSError, ValueError, RecursionError) as error:
            raise NotSoundError from error
        if expected == '[' or not _END.fullmatch(text):
            raise NotSoundError
        self.sha256 = digest.hexdigest()


def _take(text: str, expected: str) -> tuple[list[Any], str]:
    """Return the whole entries at the beginning of a text, and the rest."""
    decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().raw_decode
    entries: list[Any] = []
    at = 0
    while (mark := _MARK.match(text, at)) and mark[1] == expected:
        if text[mark.end() : mark.end() + 1] != '{':
            break
        try:
            entry, at = decode(text, mark.end())
        except json.JSONDecodeError:  # the rest of it is yet to be read
            break
        entries.append(entry)
        expected = ','
    return entries, text[at:]
