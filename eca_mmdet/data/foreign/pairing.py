"""Find the image of each label file, and the label files of each split."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from eca_mmdet.data.foreign.source import IMAGE_ENDINGS, files_below, split_folders

_LAYERS = frozenset(('annotations', 'labels', 'images', 'jpegimages', 'xml', 'json'))
"""Folders that hold labels apart from images; otherwise the paths are the same."""


class Images:
    """The images below a folder, by the part of their paths that labels share."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_key = defaultdict[str, list[Path]](list)
        self._by_name = defaultdict[str, list[Path]](list)
        self.all = list(files_below(root, IMAGE_ENDINGS))
        self.files = set(self.all)
        for path in self.all:
            self._by_key[self._key(path)].append(path)
            for name in (path.name, path.stem):
                self._by_name[name].append(path)

    def _key(self, path: Path) -> str:
        parts = path.relative_to(self._root).with_suffix('').parts
        return '/'.join(part for part in parts if part.lower() not in _LAYERS)

    def of(self, labels: Path, stated: str) -> Path | None:
        """Return the image of a label file, None if there is none or several fit.

        Args:
            labels: the file.
            stated: the image's name in it; '' for none. Its folder counts for nothing
                here, for it is that of the machine where the labels were made.
        """
        named = stated.replace('\\', '/').rpartition('/')[2]
        same = self._by_key.get(self._key(labels), [])
        for found in (
            [path for path in same if path.name == named],
            same,
            self._by_name.get(named, []) if named else [],
            self._by_name.get(labels.stem, []),
        ):
            if len(found) == 1:
                return found[0]
        return None


def label_splits(root: Path, ending: str) -> dict[str, list[Path]]:
    """Return the label files of each split, by folders called train, val and test.

    Args:
        root: of the data.
        ending: of label files, as '.xml'.

    Returns:
        All under '' if there are no such folders.
    """
    every = list(files_below(root, [ending]))
    for base in (root, root / 'Annotations', root / 'annotations', root / 'labels'):
        splits = {
            split: [path for path in every if folder in path.parents]
            for split, folder in split_folders(base).items()
        }
        splits = {split: found for split, found in splits.items() if found}
        if splits:
            return splits
    return {'': every}


def outside(labels: Path, stated: str, root: Path) -> Path | None:
    """Return an image that a label file names by a relative path, if it is near.

    Args:
        labels: the file.
        stated: path in it, relative to the file's folder.
        root: of the data; the image may be in it, or in a folder beside it.
    """
    name = stated.replace('\\', '/')
    if not name or '\0' in name or name.startswith('/') or ':' in name[:2]:
        return None
    path = Path(os.path.normpath(labels.parent.absolute() / name))
    near = Path(os.path.abspath(root)).parent
    if near in path.parents and path.suffix.lower() in IMAGE_ENDINGS and path.is_file():
        return path
    return None
