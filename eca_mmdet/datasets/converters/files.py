"""Files of other tools' datasets: images, their label files, splits, untrusted XML."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import ParseError

from eca_mmdet.datasets.converters.labels import (
    ConversionLog,
    Kind,
    LabelledDataset,
    LabelledObject,
    LabelledSplit,
    read_split,
)
from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped, plural

IMAGE_ENDINGS = frozenset(
    '.avif .bmp .dng .gif .heic .heif .jp2 .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm '
    '.tif .tiff .webp'.split()
)
SPLITS = dict.fromkeys(('train', 'training'), 'train')
SPLITS |= dict.fromkeys(('val', 'valid', 'validation'), 'val')
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
_UNREADABLE = 'label files left out that cannot be read, with their images'
OUTSIDE = 'label files left out, with their images, that are outside the split folders'


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


def by_split(
    paths: Iterable[Path], root: Path, place: Mapping[Path, Path] | None = None
) -> dict[str, list[Path]]:
    """Return paths by the split of their own or another place; '' for none, last."""
    found: dict[str, list[Path]] = {name: [] for name in ('train', 'val', 'test', '')}
    for path in paths:
        found[split_of((place or {}).get(path, path), root)[0]].append(path)
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


def supervision_formats(name: str) -> Any:
    """Return a module of supervision, which reads the labels."""
    try:
        return importlib.import_module(f'supervision.dataset.formats.{name}')
    except ImportError as error:
        raise MissingPackageError(
            'reading the labels of other tools needs supervision 0.31 or newer '
            f"({error}). Install it: pip install 'eca-mmdet[data]'"
        ) from error


def parse_xml(path: Path, log: ConversionLog) -> Any:
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
        with contextlib.suppress(ParseError, LookupError, ValueError):
            return fromstring(raw)
        # Expat knows no encoding of several bytes but UTF-8 and UTF-16.
        declared = re.match(rb'\s*<\?xml[^>]*\bencoding=["\']([\w.-]+)', raw)
        name = declared[1].decode() if declared else ''
        return fromstring(read_text(path, 'label file', log, name))
    except ParseError as error:
        raise ValueError(str(error)) from None


def log_unreadable(file: Path, error: Exception, log: ConversionLog) -> None:
    """Log a label file that cannot be read."""
    reason = ' '.join(str(error).split())
    log.add(_UNREADABLE, f'{file.name}: {clipped(reason, 80)}')


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
        """The image's name; the label file's own if it states none."""
        return self.stated.replace('\\', '/').rpartition('/')[2] or self.labels.stem

    def fits(self, image: Path) -> bool:
        """Whether an image has the name; one without an ending fits any ending."""
        bare = os.path.splitext(self.name)[1].lower() not in IMAGE_ENDINGS
        return image.name == self.name or (bare and image.stem == self.name)


_Candidate = tuple[Any, Claim, Path | None]
"""Key, claim and image."""


class Pairs:
    """Which label file has which image; no image has two."""

    def __init__(self) -> None:
        self.images: dict[Any, Path] = {}
        self.taken: set[Path] = set()
        self._how: dict[Any, tuple[str, str]] = {}

    def add(
        self, candidates: Iterable[_Candidate], how: str = '', first: bool = False
    ) -> None:
        """Pair the claims whose image is still free.

        ``how`` says, for the log, how an uncertain image was guessed. With ``first``
        the first of several claims of an image gets it; otherwise none does.
        """
        free = [
            (*rest, image) for *rest, image in candidates if image not in self.taken
        ]
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
        self.root = root
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
        parts = path.relative_to(self.root).parts
        folders = [part for part in parts[:-1] if part.lower() not in _LAYERS]
        return *folders, os.path.splitext(parts[-1])[0] if parts else ''

    def pair(self, claims: Mapping[Any, Claim]) -> Pairs:
        """Give each label file its image, the certain ones first.

        An image of the right name in another place is taken only if neither folder
        has a pair of its own: where it has, the label's image is missing.
        """
        pairs = Pairs()
        own: list[_Candidate] = []
        other: list[_Candidate] = []
        for key, claim in claims.items():
            image = self._sure(claim)
            named = image is not None and image.stem == claim.labels.stem
            (own if named else other).append((key, claim, image))
        pairs.add(own, first=True)
        pairs.add(other)
        left = [(key, one) for key, one in claims.items() if key not in pairs.images]
        pairs.add([(key, one, self._renamed(one)) for key, one in left], _RENAMED)
        homes = {claims[key].labels.parent for key in pairs.images}
        homes |= {image.parent for image in pairs.images.values()}
        asked = Counter(claim.name for claim in claims.values())
        moved = [
            (key, claim, image)
            for key, claim in left
            if (image := self._moved(claim)) is not None
            and asked[claim.name] == 1
            and homes.isdisjoint((claim.labels.parent, image.parent))
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
        fitting = [image for image in wanted if claim.fits(image)]
        if claim.exact and (fitting or not same):
            return claim.exact
        return fitting[0] if len(fitting) == 1 else None

    def _renamed(self, claim: Claim) -> Path | None:
        """Return the image of the same path, if that of the stated name is gone."""
        same = self._same(claim)
        gone = not claim.exact and not self._by_name.get(claim.name)
        return same[0] if len(same) == 1 and gone else None

    def _moved(self, claim: Claim) -> Path | None:
        """Return the only image of the stated name, wherever it is."""
        named = self._by_name.get(claim.name, [])
        fitting = [image for image in named if claim.fits(image)]
        if self._same(claim) or claim.exact or len(fitting) != 1:
            return None
        image = fitting[0]
        mine, other = self.key(claim.labels)[:-1], self.key(image)[:-1]
        short = min(len(mine), len(other))
        like = mine[len(mine) - short :] == other[len(other) - short :]
        # Below annotations/ and images/ folders belong to the data, and so must agree.
        layered = all(
            not _LAYERS.isdisjoint(map(str.lower, path.relative_to(self.root).parts))
            for path in (claim.labels, image)
        )
        return image if like or not (claim.is_path or layered) else None


def label_splits(
    root: Path, ending: str, images: Images, log: ConversionLog
) -> tuple[dict[str, list[Path]], list[Path], str]:
    """Return the label files of each split, by lists of names or otherwise by folders.

    Also those of no split, and what to say of them.

    Raises:
        UserError: the lists of ``ImageSets`` name no label file that is there.
    """
    every = list(files_below(root, [ending]))
    by_name = defaultdict[str, list[Path]](list)
    for file in every:
        for name in {file.stem, '/'.join(images.key(file))}:
            by_name[name].append(file)
    kind, missed = ending[1:].upper(), []
    splits: dict[str, list[Path]] = {}
    lists = find_lists(root)
    for split, path in lists:
        lines = read_text(path, 'list of images', log).splitlines()
        for wanted in (line.split()[0] for line in lines if line.split()):
            parts = images.key(root / wanted.replace('\\', '/').lstrip('/'))
            ends = (wanted, *('/'.join(parts[at:]) for at in range(len(parts))))
            of_name = next((by_name[end] for end in ends if end in by_name), [])
            if len(of_name) == 1:
                splits.setdefault(split, []).extend(of_name)
            else:
                which = f'several {kind} files have' if of_name else f'no {kind} has'
                what = f'images left out that {path.name} names and {which}'
                missed.append((what, wanted))
    places = {path.parent.relative_to(root).as_posix() for _, path in lists} - {'.'}
    if splits or places:
        for miss in missed:
            log.add(*miss)
        if not splits:
            raise UserError(
                f'the lists in {", ".join(places)} name no {kind} file that is there. '
                f'{"; ".join(log.notes)}',
                code='no-images',
            )
        splits = {split: [*dict.fromkeys(files)] for split, files in splits.items()}
        used = {file for files in splits.values() for file in files}
        left = ', '.join(sorted(places)) or 'the lists'
        left = f'{kind} files left out that are in no split of {left}'
        return splits, [file for file in every if file not in used], left
    splits = by_split(every, root)
    rest = splits.pop('', []) if 'train' in splits else []
    return splits or {'': []}, rest, OUTSIDE


class LabelFormat(NamedTuple):
    """A format of one label file for each image.

    Attributes:
        kind: name of the format.
        file: name of its files in messages.
        load: returns a file's content; None, logged, if it cannot be used.
        claim: returns the image that a file asks for.
        objects: returns the content's objects, only to count them.
        read: returns the objects of an image of a content and a size.
        hint: returns why a file may have no image, after the number of its objects.
    """

    kind: Kind
    file: str
    load: Callable[[Path, ConversionLog], Any]
    claim: Callable[[Path, Any], Claim]
    objects: Callable[[Any], list[Any]]
    read: Callable[[Path, Any, Size, ConversionLog], list[LabelledObject]]
    hint: Callable[[Any], str] = lambda content: ''


def read_label_files(form: LabelFormat, images: Images, ending: str) -> LabelledDataset:
    """Read the label files of each split, or of images in the folder of a split.

    Raises:
        UserError: no image of a split can be read.
    """
    log = ConversionLog()
    splits, rest, left = label_splits(images.root, ending, images, log)
    logs = {split: ConversionLog() for split in splits}
    first = next(iter(splits))
    contents: dict[Path, Any] = {}
    for split, files in [*splits.items(), (first, rest)]:
        for file in files:
            content = None if file in contents else form.load(file, logs[split])
            if content is not None:
                contents[file] = content
    pairs = images.pair({file: form.claim(file, c) for file, c in contents.items()})
    if first == '' and contents:
        splits = by_split(pairs.images, images.root, pairs.images)
        rest = splits.pop('', []) if 'train' in splits else []
        first, *others = splits or ['']
        logs = {first: logs['']} | {split: ConversionLog() for split in others}
        lost = [file for file in contents if file not in pairs.images]
        splits[first] = splits.get(first, []) + lost

    used: set[Path] = set()

    def leave_out(file: Path, what: str, hint: str, log: ConversionLog) -> None:
        lost = len(form.objects(contents[file]))
        log.add(what, f'{file.name}, {plural(lost, "object")}{hint}', lost)

    def read_files(split: str, files: list[Path]) -> LabelledSplit:
        log = logs[split]
        found: dict[Path, Any] = {}
        for file in filter(contents.__contains__, files):
            image = pairs.image_of(file, log)
            if image is None:
                what = 'label files left out without an image of their own'
                leave_out(file, what, form.hint(contents[file]), log)
            else:
                found[image] = contents[file]
        used.update(found)
        part = read_split(
            split,
            None,
            list(found),
            log,
            lambda image, size: form.read(image, found[image], size, log),
            lambda image: len(form.objects(found[image])),
        )
        if files and not part.images:
            raise UserError(
                f'none of the {len(files)} {form.file} files in {files[0].parent} has '
                f'an image that can be read. {"; ".join(log.notes)}',
                code='no-images',
            )
        return part

    for file in filter(contents.__contains__, rest):
        leave_out(file, left, '', logs[first])
    parts = [read_files(split, files) for split, files in splits.items()]
    for image in images.all:
        if image not in used:
            what = f'images left out that no {form.file} file of a split describes'
            log.add(what, image.name)
    return LabelledDataset.by_name(form.kind, parts, log.notes)
