"""Files of other tools' datasets: images, their label files, splits, untrusted XML."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from eca_mmdet.datasets.converters.labels import (
    EXTRA,
    ConversionLog,
    LabelledObject,
    LabelledSplit,
    read_split,
    turn_as_seen,
)
from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.errors import UserError, require_package
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import plural

IMAGE_ENDINGS = frozenset(
    '.avif .bmp .dng .gif .heic .heif .jp2 .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm '
    '.tif .tiff .webp'.split()
)
SPLITS = dict.fromkeys(('train', 'training'), 'train')
SPLITS |= dict.fromkeys(
    ('val', 'valid', 'validation', 'dev', 'eval', 'evaluation'), 'val'
)
SPLITS |= dict.fromkeys(('test', 'testing'), 'test')
"""Usual folder names of splits, and the names used here."""
_SPLIT = re.compile(
    rf'(?:.*[_-])?({"|".join(SPLITS)})'
    r'(?:[_-]?(?:sets?|images?|imgs?|labels?|annotations?|data|\d+|[a-c]))?'
)

_LIST_ENDING = re.compile('[_-]?(?:list|file|image|img|name|id|set|split)s?$')

_MOST_BYTES = 1 << 28

_COMMON_CHINESE = re.compile(rb'[\xb0-\xd7][\xa1-\xfe]')
"""First level of GB 2312; the accented small letters of Latin-1 are from E0 on."""
_HIGH, _CONTROL = re.compile(rb'[\x80-\xff]'), re.compile(rb'[\x80-\x9f]')

_LAYERS = frozenset(('annotations', 'labels', 'images', 'jpegimages', 'xml', 'json'))
"""Folders that hold labels apart from images; otherwise the paths are the same."""

_RENAMED = (
    'label files whose stated image is not there: that of their own path is taken'
)
_MOVED = (
    'label files without an image in their place: the only one of its name is taken'
)


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


def decode(raw: bytes, errors: str = 'replace') -> str:
    """Return text in UTF-8, or in UTF-16 if it begins with its byte-order mark."""
    utf16 = raw[:2] in (b'\xff\xfe', b'\xfe\xff')
    return raw.decode('utf-16' if utf16 else 'utf-8-sig', errors)


def read_text(path: Path, what: str, log: ConversionLog, declared: str = '') -> str:
    """Return the text of a file in UTF-8, the declared encoding, GBK or Latin-1.

    GBK and Latin-1 are taken if the bytes look like it, which is logged.

    Raises:
        UserError: it cannot be read, or its encoding is not recognised.
    """
    raw = read_file(path, what, _MOST_BYTES)
    with contextlib.suppress(UnicodeDecodeError):
        return decode(raw, 'strict')
    chinese = 4 * len(_COMMON_CHINESE.findall(raw)) > len(_HIGH.findall(raw))
    guess = 'GBK' if chinese else '' if _CONTROL.search(raw) else 'Latin-1'
    for encoding in (declared, guess):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            text = raw.decode(encoding)
            if encoding != declared:
                log.add(f'files that are not UTF-8: read as {guess}', path.name)
            return text
    raise UserError(
        f'{what} {path} is neither UTF-8 nor GBK or Latin-1. Save it as UTF-8.',
        code='file-unreadable',
    )


def split_of(path: Path, root: Path) -> tuple[str, Path]:
    """Return the split that a folder between ``root`` and a file is named after.

    ``''`` and ``root`` if there is none. The second value is the folder.
    """
    if root not in path.parents:  # images in a folder beside that of the labels
        root = root.parent
    parts = path.relative_to(root).parts[:-1] if root in path.parents else ()
    for depth, part in enumerate(parts, 1):
        if found := _SPLIT.fullmatch(part.lower()):
            return SPLITS[found[1]], Path(root, *parts[:depth])
    return '', root


def by_split(paths: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Return paths by the split of their folders; those of none, as '', last."""
    found: dict[str, list[Path]] = {name: [] for name in ('train', 'val', 'test', '')}
    for path in paths:
        found[split_of(path, root)[0]].append(path)
    return {name: files for name, files in found.items() if files}


def find_lists(root: Path) -> list[tuple[str, Path]]:
    """Return the lists of names in a folder and its ImageSets, each with its split."""
    texts = [
        path
        for path in files_below(root, ['.txt'])
        if path.parent == root or path.parent.name in ('ImageSets', 'Main')
        if not any(path.with_suffix(end).is_file() for end in ('.jpg', '.png'))
    ]
    stems = {path: _LIST_ENDING.sub('', path.stem.lower()) for path in texts}
    has_train = {'train', 'val'} & {*stems.values()}
    names = SPLITS if has_train else SPLITS | {'trainval': 'train'}
    return [(names[stem], path) for path, stem in stems.items() if stem in names]


def parse_xml(path: Path, log: ConversionLog) -> Any:
    """Return the root element; entities are refused, for they can fill the memory.

    Raises:
        ValueError: it is not XML, or has a document type of its own.
        UserError: it cannot be read.
        MissingPackageError: defusedxml is not installed.
    """
    package = require_package('defusedxml.ElementTree', 'reading XML', EXTRA)
    raw = read_file(path, 'label file', _MOST_BYTES)
    root = None
    try:
        with contextlib.suppress(ParseError, LookupError, ValueError):
            root = package.fromstring(raw)
        if root is None:  # Expat's encodings of several bytes: UTF-8 and UTF-16
            declared = re.match(rb'\s*<\?xml[^>]*\bencoding=["\']([\w.-]+)', raw)
            name = declared[1].decode() if declared else ''
            root = package.fromstring(read_text(path, 'label file', log, name))
    except ParseError as error:
        raise ValueError(str(error)) from None
    for element in root.iter():
        element.tag = element.tag.rpartition('}')[2]  # without a namespace
    return root


def root_tag(path: Path) -> str:
    """Return the name of an XML file's root element, by its first bytes; else ''."""
    try:
        with path.open('rb') as file:
            head = file.read(4096)
    except OSError:
        return ''
    text = decode(head).lstrip()
    found = re.search(r'<([A-Za-z_][\w.-]*)[\s>/]', text)
    return found[1] if found and text[0] == '<' else ''


@dataclasses.dataclass(eq=False)
class ImageLabels:
    """The labels of one image, and the image once it is found.

    Attributes:
        file: the label file; of a file for many images, where the image would be.
        content: of the file, as the format's reader takes it.
        count: number of objects.
        stated: the image's name in it; '' for none. Its folder counts for nothing, for
            it is that of the machine where the labels were made.
        exact: the image that is where the stated path leads, if there is one.
        stated_size: width and height of the image in the file, 0 where it has none.
        is_path: ``file`` is a path of the image itself, so its folders bind.
        hint: what to add if there is no image.
        guess: how an uncertain image was chosen.
    """

    file: Path
    content: Any
    count: int
    stated: str
    exact: Path | None = None
    stated_size: Size = (0, 0)
    is_path: bool = False
    hint: str = ''
    image: Path | None = None
    guess: str = ''

    @property
    def name(self) -> str:
        """The image's name; the label file's own if it states none."""
        return self.stated.replace('\\', '/').rpartition('/')[2] or self.file.stem

    def fits(self, image: Path) -> bool:
        """Whether an image has the name; one without an ending fits any ending."""
        bare = os.path.splitext(self.name)[1].lower() not in IMAGE_ENDINGS
        return image.name == self.name or (bare and image.stem == self.name)

    def leave_out(self, what: str, log: ConversionLog) -> None:
        """Log that the objects are lost."""
        name = self.stated if self.is_path else self.file.name
        hint = '' if self.image else self.hint
        log.add(what, f'{name}, {plural(self.count, "object")}{hint}', self.count)


ReadObjects = Callable[[Any, str, Size, ConversionLog], list[LabelledObject]]
"""Returns the objects of a content, given the name and size of its image."""


class ImageFolder:
    """The images below a folder, by the part of their paths that labels share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_key = defaultdict[tuple[str, ...], list[Path]](list)
        self._by_name = defaultdict[str, list[Path]](list)
        self.images = dict.fromkeys(files_below(root, IMAGE_ENDINGS))
        for path in self.images:
            self._by_key[self.key(path)].append(path)
            for name in (path.name, path.stem):
                self._by_name[name].append(path)

    def key(self, path: Path) -> tuple[str, ...]:
        """Return what an image's path and that of its labels have in common."""
        parts = path.relative_to(self.root).parts
        folders = [part for part in parts[:-1] if part.lower() not in _LAYERS]
        return *folders, os.path.splitext(parts[-1])[0] if parts else ''

    def match(self, labels: Sequence[ImageLabels]) -> None:
        """Find the image of each, the certain ones first; no image has two.

        An image of the right name in another place is taken only if neither folder
        has a pair of its own: where it has, the label's image is missing.
        """
        taken: set[Path] = set()

        def assign(
            pairs: Iterable[tuple[ImageLabels, Path | None]],
            guess: str = '',
            first: bool = False,
        ) -> None:
            """Assign images that one asks for, or ``first`` of several."""
            free = [
                (one, image) for one, image in pairs if image and image not in taken
            ]
            asked = Counter(image for _, image in free)
            for one, image in free:
                if image not in taken and (first or asked[image] == 1):
                    one.image, one.guess = image, guess
                    taken.add(image)

        sure = [(one, self._sure(one)) for one in labels]
        named = [(one, image) for one, image in sure if image]
        assign(
            [pair for pair in named if pair[1].stem == pair[0].file.stem], first=True
        )
        assign(sure)
        left = [one for one in labels if not one.image]
        assign([(one, self._renamed(one)) for one in left], _RENAMED)
        homes = {one.file.parent for one in labels if one.image}
        homes |= {image.parent for image in taken}
        asked = Counter(one.name for one in labels)
        moved = [(one, self._moved(one)) for one in left if asked[one.name] == 1]
        assign(
            [
                (one, image)
                for one, image in moved
                if image and homes.isdisjoint((one.file.parent, image.parent))
            ],
            _MOVED,
        )

    def _same(self, labels: ImageLabels) -> list[Path]:
        return self._by_key.get(self.key(labels.file), [])

    def _sure(self, labels: ImageLabels) -> Path | None:
        """Return the image at the stated path, or of the same path and name."""
        if labels.is_path and labels.exact:
            return labels.exact
        same = self._same(labels)
        place = self.key(labels.file)[:-1]
        stem = os.path.splitext(labels.name)[0]
        wanted = same or self._by_key.get((*place, stem), [])
        fitting = [image for image in wanted if labels.fits(image)]
        if labels.exact and (fitting or not same):
            return labels.exact
        return fitting[0] if len(fitting) == 1 else None

    def _renamed(self, labels: ImageLabels) -> Path | None:
        """Return the image of the same path, if that of the stated name is gone."""
        same = self._same(labels)
        gone = not labels.exact and not self._by_name.get(labels.name)
        return same[0] if len(same) == 1 and gone else None

    def _moved(self, labels: ImageLabels) -> Path | None:
        """Return the only image of the stated name, wherever it is."""
        named = self._by_name.get(labels.name, [])
        fitting = [image for image in named if labels.fits(image)]
        if self._same(labels) or labels.exact or len(fitting) != 1:
            return None
        image = fitting[0]
        mine, other = self.key(labels.file)[:-1], self.key(image)[:-1]
        short = min(len(mine), len(other))
        like = mine[len(mine) - short :] == other[len(other) - short :]
        # Below annotations/ and images/ folders belong to the data, and so must agree.
        layered = all(
            not _LAYERS.isdisjoint(map(str.lower, path.relative_to(self.root).parts))
            for path in (labels.file, image)
        )
        return image if like or not (labels.is_path or layered) else None


def read_matched(
    split: str,
    labels: Iterable[ImageLabels],
    unmatched: str,
    read: ReadObjects,
) -> LabelledSplit:
    """Read the labels of a split that have an image; ``unmatched`` names the others."""
    log = ConversionLog()
    found: dict[Path, ImageLabels] = {}
    for one in labels:
        if one.image is None:
            one.leave_out(unmatched, log)
            continue
        if one.guess:
            log.add(one.guess, f'{one.file.name}, {one.name}: {one.image.name}')
        found[one.image] = one

    def read_image(image: Path, size: Size) -> list[LabelledObject]:
        labels = found[image]
        objects = read(labels.content, image.name, size, log)
        turn_as_seen(objects, labels.stated_size, image, size, log)
        return objects

    counts = {image: labels.count for image, labels in found.items()}
    return read_split(split, None, list(found), log, read_image, counts.__getitem__)
