"""Find the image of each label file, and the label files of each split."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    files_below,
    split_folders,
)
from eca_mmdet.datasets.converters.labels import ConversionLog

_LAYERS = frozenset(('annotations', 'labels', 'images', 'jpegimages', 'xml', 'json'))
"""Folders that hold labels apart from images; otherwise the paths are the same."""

_RENAMED = (
    'label files whose stated image is not there: that of their own path is taken'
)
_MOVED = (
    'label files without an image in their place: the only one of its name is taken'
)
OUTSIDE = 'label files left out, with their images, that are outside the split folders'


class Claim(NamedTuple):
    """The image that a label file asks for.

    Attributes:
        labels: the file; of labels of many images, where the image would be.
        stated: the image's name in it; '' for none. Its folder counts for nothing, for
            it is that of the machine where the labels were made.
        exact: the image that is where the stated path leads, if there is one.
        is_path: ``labels`` is a path of the image itself, so its folders bind.
    """

    labels: Path
    stated: str
    exact: Path | None = None
    is_path: bool = False

    @property
    def name(self) -> str:
        """Of the image; the label file's own if it states none."""
        return self.stated.replace('\\', '/').rpartition('/')[2] or self.labels.stem

    def fits(self, image: Path) -> bool:
        """Tell an image of the name; a name without an ending fits any ending."""
        bare = os.path.splitext(self.name)[1].lower() not in IMAGE_ENDINGS
        return image.name == self.name or (bare and image.stem == self.name)


Found = Iterable[tuple[Any, Claim, Path | None]]


class Pairs:
    """Which label file has which image; no image has two."""

    def __init__(self) -> None:
        self.images: dict[Any, Path] = {}
        self.taken: set[Path] = set()
        self._how: dict[Any, tuple[str, str]] = {}

    def add(self, found: Found, how: str = '', first: bool = False) -> None:
        """Pair the claims whose image is still free.

        Args:
            found: key, claim and image of each.
            how: the image was found if it is not certain; logged.
            first: of those that want the same image gets it; otherwise none does.
        """
        free = [(*one, image) for *one, image in found if image not in self.taken]
        wanted = Counter(image for *_, image in free)
        for key, claim, image in free:
            if image and image not in self.taken and (first or wanted[image] == 1):
                self.images[key] = image
                self.taken.add(image)
                self._how[key] = how, f'{claim.labels.name}, {claim.name}: {image.name}'

    def image_of(self, key: Any, log: ConversionLog) -> Path | None:
        """Return the image of a claim, None if it has none; a guess is logged."""
        how, where = self._how.get(key, ('', ''))
        if how:
            log.add(how, where)
        return self.images.get(key)


class Images:
    """The images below a folder, by the part of their paths that labels share."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_key = defaultdict[tuple[str, ...], list[Path]](list)
        self._by_name = defaultdict[str, list[Path]](list)
        self.all = list(files_below(root, IMAGE_ENDINGS))
        self.files = set(self.all)
        for path in self.all:
            self._by_key[self.key(path)].append(path)
            for name in (path.name, path.stem):
                self._by_name[name].append(path)

    def key(self, path: Path) -> tuple[str, ...]:
        """Return what an image's path and that of its labels have in common."""
        parts = path.relative_to(self._root).parts
        folders = [part for part in parts[:-1] if part.lower() not in _LAYERS]
        return *folders, os.path.splitext(parts[-1])[0] if parts else ''

    def pair(self, claims: Mapping[Any, Claim]) -> Pairs:
        """Give each label file its image, the certain ones first.

        An image of the right name in another place is taken only if neither folder
        has a pair of its own: where it has, the label's image is missing.
        """
        pairs = Pairs()
        own: list[tuple[Any, Claim, Path | None]] = []
        other: list[tuple[Any, Claim, Path | None]] = []
        for key, one in claims.items():
            image = self._sure(one)
            named = image is not None and image.stem == one.labels.stem
            (own if named else other).append((key, one, image))
        pairs.add(own, first=True)
        pairs.add(other)
        left = [(key, one) for key, one in claims.items() if key not in pairs.images]
        pairs.add([(key, one, self._renamed(one)) for key, one in left], _RENAMED)
        homes = {claims[key].labels.parent for key in pairs.images}
        homes |= {image.parent for image in pairs.images.values()}
        asked = Counter(one.name for one in claims.values())
        moved = [
            (key, one, image)
            for key, one in left
            if (image := self._moved(one)) is not None
            and asked[one.name] == 1
            and homes.isdisjoint((one.labels.parent, image.parent))
        ]
        pairs.add(moved, _MOVED)
        return pairs

    def _same(self, claim: Claim) -> list[Path]:
        return self._by_key.get(self.key(claim.labels), [])

    def _sure(self, claim: Claim) -> Path | None:
        """Return the image at the stated path, or of the same path and name."""
        if claim.is_path and claim.exact:
            return claim.exact
        same = self._same(claim)
        place = self.key(claim.labels)[:-1]
        wanted = same or self._by_key.get((*place, os.path.splitext(claim.name)[0]), [])
        found = [image for image in wanted if claim.fits(image)]
        if claim.exact and (found or not same):
            return claim.exact
        return found[0] if len(found) == 1 else None

    def _renamed(self, claim: Claim) -> Path | None:
        """Return the image of the same path, if that of the stated name is gone."""
        same = self._same(claim)
        gone = not claim.exact and not self._by_name.get(claim.name)
        return same[0] if len(same) == 1 and gone else None

    def _moved(self, claim: Claim) -> Path | None:
        """Return the only image of the stated name, wherever it is."""
        found = [one for one in self._by_name.get(claim.name, []) if claim.fits(one)]
        if self._same(claim) or claim.exact or len(found) != 1:
            return None
        mine, other = self.key(claim.labels)[:-1], self.key(found[0])[:-1]
        short = min(len(mine), len(other))
        like = mine[len(mine) - short :] == other[len(other) - short :]
        # Below annotations/ and images/ folders are of the data, and so must agree.
        layered = all(
            not _LAYERS.isdisjoint(map(str.lower, one.relative_to(self._root).parts))
            for one in (claim.labels, found[0])
        )
        return found[0] if like or not (claim.is_path or layered) else None


def label_splits(root: Path, ending: str) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the label files of each split, by folders called train, val and test.

    Args:
        root: of the data.
        ending: of label files, as '.xml'.

    Returns:
        All under '' if there are no such folders; and those outside of the folders.
    """
    every = list(files_below(root, [ending]))
    for base in (root, root / 'Annotations', root / 'annotations', root / 'labels'):
        splits = {
            split: [path for path in every if folder in path.parents]
            for split, folder in split_folders(base).items()
        }
        splits = {split: found for split, found in splits.items() if found}
        if splits:
            inside = {path for found in splits.values() for path in found}
            return splits, [path for path in every if path not in inside]
    return {'': every}, []


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
