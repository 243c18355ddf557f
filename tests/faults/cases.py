"""What a case is: a bad file, the command that gets it, and how that must end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Content = bytes | str | Callable[[Path], None]
"""Of the bad file, or what makes it at a path."""


@dataclass(frozen=True)
class Case:
    """One bad file in one command.

    Attributes:
        id: 'weights/zip-cut-0.37'.
        name: of the bad file; may have folders.
        content: of it.
        words: the command line; {bad} is the file, {in} its folder, {out} a name in the
            folder that commands write to, {originals} the sound files.
        codes: exit codes that are right.
        names: what the message must have in it; None for the bad file's name.
        setup: makes further files beside the bad one, in the folder it gets; its
            second argument is where the sound files are.
        letters: that a message may have.
        one_line: stderr has the message alone; a config's checks may warn before.
    """

    id: str
    name: str
    content: Content
    words: tuple[str, ...]
    codes: tuple[int, ...] = (1, 2)
    names: str | None = None
    setup: Callable[[Path, Path], None] | None = None
    one_line: bool = True
    letters: int = 600

    def write(self, folder: Path, originals: Path) -> list[str]:
        """Make the files below ``folder``; return the command line."""
        bad = folder / 'in' / self.name
        bad.parent.mkdir(parents=True, exist_ok=True)
        for each in ('work', 'tmp'):
            (folder / each).mkdir()
        if self.setup:
            self.setup(folder / 'in', originals)
        if callable(self.content):
            self.content(bad)
        elif isinstance(self.content, str):
            bad.write_text(self.content, encoding='utf-8', errors='surrogatepass')
        else:
            bad.write_bytes(self.content)
        places = {
            '{bad}': str(bad),
            '{in}': str(folder / 'in'),
            '{out}': 'out',
            '{originals}': str(originals),
        }
        return [_filled(word, places) for word in self.words]


def _filled(word: str, places: dict[str, str]) -> str:
    for key, value in places.items():
        word = word.replace(key, value)
    return word


def sparse(gib: int, head: bytes = b'') -> Callable[[Path], None]:
    """Return what makes a file of zeros that takes no room on the disk."""

    def make(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, gib << 30)

    return make


def _loop(path: Path) -> None:
    path.symlink_to(path.with_name('other'))
    path.with_name('other').symlink_to(path)


NO_FILES: dict[str, Content] = {
    'empty': b'',
    'folder': Path.mkdir,
    'fifo': os.mkfifo,
    'endless': lambda path: path.symlink_to('/dev/zero'),
    'link-loop': _loop,
    'dangling': lambda path: path.symlink_to('gone'),
    'sparse-100-GiB': sparse(100),
    'zeros': bytes(4096),
}
"""What lies where a file is expected."""
