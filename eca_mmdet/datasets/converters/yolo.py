"""Read a YOLO folder: a text file an image, a line an object.

Its description, data.yaml or classes.txt, names the classes and folders of the splits.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, cast

from eca_mmdet.datasets.converters.columns import read_columns
from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    by_split,
    decode,
    files_below,
    find_lists,
    import_package,
    read_text,
    split_of,
)
from eca_mmdet.datasets.converters.labels import (
    SUPERVISION,
    Choices,
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    LabelledSplit,
    is_coordinate,
    read_split,
)
from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped, plural

_MOST_BYTES = 1 << 26
"""Largest file of labels or description."""

_PATHS = re.compile(r'^(?:path|train|val|valid|test)\s*:.*(?:\n\s*-.*)*', re.M)
_BACKSLASH = re.compile(r'\\(?!x[\dA-F]{2}|u[\dA-F]{4}|U[\dA-F]{8}|\n)')
"""A separator: not the code of a character, nor a folded line."""

_STEMS = ('data', 'dataset')
_YAML = ('.yaml', '.yml')
_BARE = 'images without a label file: kept, without objects'
_MALFORMED = 'lines left out that are no YOLO label'


def read(path: Path, choices: Choices) -> LabelledDataset:
    """Read a folder, or the data.yaml in it.

    Raises:
        UserError: it has no class names, no images in the stated folders, or labels
            that can be read in several ways.
        MissingPackageError: supervision is not installed.
    """
    about = _describe(path)
    keys: dict[int | str, int] = {number: number + 1 for number in about.names}
    categories = [(number + 1, name) for number, name in about.names.items()]
    labels = _Labels(about, choices)
    logs = {split: ConversionLog() for split in about.splits}
    images = {split: _images(split, about, log) for split, log in logs.items()}
    labels.decide(image for paths in images.values() for image in paths)
    parts = [_read_split(*item, logs[item[0]], labels) for item in images.items()]
    if all(part.log.count(_BARE) == len(part.images) for part in parts):
        raise UserError(
            f'no image of {path} has a label file: labels/a.txt was looked for beside '
            'images/a.jpg, and a.txt beside a.jpg. There is nothing to convert.',
            code='no-objects',
        )
    labels.log_unused(parts[0].log)
    return LabelledDataset('yolo', categories, keys, parts, about.notes)


def _read_split(
    split: str, images: list[Path], log: ConversionLog, labels: _Labels
) -> LabelledSplit:
    places = labels.about.splits[split]
    folder = places[0] if len(places) == 1 and places[0].is_dir() else None
    labels.begin(log)
    part = read_split(
        split, folder, images, log, labels.read, lambda image: len(labels.lines(image))
    )
    if not part.images:
        raise UserError(
            f'no image of {split or "the dataset"!r} can be read in '
            f'{", ".join(map(str, places))}. Is {labels.about.file} right?',
            code='no-images',
        )
    return part


def _images(split: str, about: _Description, log: ConversionLog) -> list[Path]:
    """Return the images of folders, and those that lists name, a line each."""
    found: list[Path] = []
    root = os.path.join(os.path.abspath(about.root), '')
    for place in about.splits[split]:
        if place.is_dir():
            inside = list(files_below(place, IMAGE_ENDINGS))
            others = by_split(inside, place).keys() - {'', split}
            if split and others:
                what = f'folders of {split} with images of {", ".join(others)} below'
                log.add(what, place.name)
            found += inside
            continue
        lines = map(str.strip, read_text(place, 'list of images', log).splitlines())
        for line in filter(None, lines):
            path, guess = _find(line, [place.parent, about.root])
            if path is None or not path.is_file():
                what = f'images left out that {place.name} names and are not there'
                log.add(what, line)
                continue
            found.append(path)
            if guess:
                log.add(f'images of {place.name} found by the end of their path', line)
            if not os.path.abspath(path).startswith(root):
                log.add(f'images of {place.name} outside of {about.root}', line)
    return list(dict.fromkeys(found))


def _find(stated: str, bases: list[Path]) -> tuple[Path | None, bool]:
    """Return a path relative to a base, or that of its end; and whether it is a guess.

    The path may be of another machine, also of Windows.
    """
    name = stated.replace('\\', '/').replace('\0', '')
    parts = PurePosixPath(name).parts
    # Roboflow writes '../train/images' beside train/; CVAT and darknet 'data/' first.
    plain = (name, name.removeprefix('../'), name.removeprefix('data/'))
    for end in (*plain, *('/'.join(parts[at:]) for at in range(1, len(parts)))):
        for base in bases:
            if (base / end).exists():
                return base / end, end not in plain
    return None, False


class _Labels:
    """The label files, split by split."""

    def __init__(self, about: _Description, choices: Choices) -> None:
        self.about = about
        self._choices = choices
        self._library = import_package('supervision.dataset.formats.yolo', SUPERVISION)
        self._used: set[Path] = set()
        self._folders: set[Path] = set()

    def decide(self, images: Iterable[Path]) -> None:
        """Decide what the columns mean, by the labels of all images."""
        files = dict.fromkeys(map(self._file_of, images))
        labels = (
            (
                f'{path}:{number}: {clipped(line, 50)}',
                list(map(float, values[: 4 if self._has_keypoints(values) else None])),
            )
            for path in filter(None, files)
            for number, line in _lines(path)
            if len(values := line.split()[1:]) > 3 and all(map(_is_number, values))
        )
        self._columns = read_columns(labels, self._choices)

    def _has_keypoints(self, values: list[str]) -> bool:
        """Whether the values are a box, the stated keypoints and up to two more."""
        keypoints = self.about.keypoint_values
        return keypoints > 0 and 0 <= len(values) - 4 - keypoints <= 2

    def begin(self, log: ConversionLog) -> None:
        """Begin a split."""
        self._log = log
        self._seen: set[Path] = set()

    def lines(self, image: Path) -> list[tuple[str, str]]:
        """Return the lines of an image's label file, each with its place."""
        path = self._file_of(image)
        if path is None:
            self._log.add(_BARE, image.name)
            return []
        if path in self._seen:
            self._log.add('images that have the label file of another too', image.name)
        self._seen.add(path)
        self._used.add(path)
        return [
            (line, f'{path.name}:{number}: {clipped(line, 30)}')
            for number, line in _lines(path)
        ]

    def read(self, image: Path, size: Size) -> list[LabelledObject]:
        """Return the objects of an image."""
        objects = (self._read_line(*line, size) for line in self.lines(image))
        return [labelled for labelled in objects if labelled is not None]

    def _file_of(self, image: Path) -> Path | None:
        """Find ``labels/a.txt`` of ``images/a.jpg``, or the file beside the image."""
        tries = [image.with_suffix('.txt')]
        parts = image.parts
        if 'images' in parts:
            last = len(parts) - 1 - parts[::-1].index('images')
            tries.insert(0, Path(*parts[:last], 'labels', *parts[last + 1 :]))
            tries[0] = tries[0].with_suffix('.txt')
        self._folders.update(path.parent for path in tries)
        return next((path for path in tries if path.is_file()), None)

    def _read_line(self, line: str, where: str, size: Size) -> LabelledObject | None:
        values = line.split()
        if not all(map(_is_number, values)):
            self._log.add(_MALFORMED, where, 1)
            return None
        scale = (1, 1) if self._choices.units == 'pixels' else size
        count = len(values)
        boxes = self._columns.boxes or self._has_keypoints(values[1:])
        if count == 6 or (count > 6 and boxes):
            self._log.add(
                f'labels of {count} columns: the first five are read as a box, and '
                'keypoints, confidence or track id left out',
                where,
            )
            values = values[:5]
        try:
            seen = self._library.yolo_annotations_to_detections(
                [' '.join(values)], scale, with_masks=False
            )
        except (ValueError, OverflowError):  # a class id of more than 64 bits
            self._log.add(_MALFORMED, where, 1)
            return None
        number = int(seen.class_id[0])
        if number not in self.about.names:
            self._log.add(
                f'objects left out of a class id that {self.about.file.name} does not '
                'name',
                where,
                1,
            )
            return None
        if len(values) == 5:
            x1, y1, x2, y2 = map(float, seen.xyxy[0])
            return LabelledObject(number, (x1, y1, x2, y2))
        # supervision rounds the points to whole pixels, so they are read here.
        numbers = self._columns.outline(list(map(float, values[1:])))
        if len(numbers) < count - 1:
            what = 'outlines whose confidence or track id at the end is left out'
            self._log.add(what, where)
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        points = [(x * scale[0], y * scale[1]) for x, y in pairs]
        return LabelledObject.around(number, points)

    def log_unused(self, log: ConversionLog) -> None:
        """Count the labels that belong to no image of any split."""
        others = {'classes.txt', 'train.txt', 'val.txt', 'valid.txt', 'test.txt'}
        folders = {Path(os.path.abspath(folder)) for folder in self._folders}
        common, root = os.path.commonpath(folders), os.path.abspath(self.about.root)
        if Path(root) in (Path(common), *Path(common).parents):
            folders = {Path(common)}
        used = {os.path.abspath(path) for path in self._used}
        found = {str(path) for at in folders for path in files_below(at, ['.txt'])}
        for path in map(Path, sorted(found - used)):
            try:
                lines = [] if path.name in others else _lines(path)
            except UserError as error:
                log.add('text files passed over that cannot be read', error)
                continue
            if lines and all(map(_is_number, lines[0][1].split())):
                log.add(
                    'label files left out that no image of a split uses',
                    f'{path.name}, {plural(len(lines), "object")}',
                    len(lines),
                )


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers from 1."""
    text = decode(read_file(path, 'label file', _MOST_BYTES))
    return [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]


def _is_number(value: str) -> bool:
    try:
        return is_coordinate(float(value))
    except ValueError:
        return False


@dataclasses.dataclass
class _Description:
    """Class names and splits of a dataset.

    Attributes:
        root: folder that paths are relative to.
        names: classes by YOLO's ids, which may have gaps.
        splits: folders of images, or text files that list them.
        keypoint_values: numbers that follow the box in a label of poses; 0 if none do.
    """

    file: Path
    root: Path
    names: dict[int, str]
    splits: dict[str, list[Path]]
    keypoint_values: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)


def find_description(path: Path) -> Path | None:
    """Return the data.yaml, classes.txt or *.names of a folder, or the file itself."""
    if path.is_file():
        return path if _describes(path) else None
    files = sorted(path.iterdir()) if path.is_dir() else []
    found = [file for file in files if _describes(file)]
    named = [file for file in found if file.stem in _STEMS]
    if len(found) > 1 and len(named) != 1:
        raise UserError(
            f'{path} has several files that describe YOLO data: '
            f'{", ".join(file.name for file in found)}. Give the one to read.',
            code='option-conflict',
        )
    if found:
        return (named or found)[0]
    lists = [file for file in files if file.name == 'classes.txt']
    lists += [file for file in files if file.suffix == '.names']
    if lists and any(file not in lists for file in files_below(path, ['.txt'])):
        return lists[0]
    return None


def _describe(path: Path) -> _Description:
    """Read the description of a folder, or a data.yaml."""
    file = cast(Path, find_description(path))  # as kind_of found
    if file.suffix.lower() in _YAML:
        return _from_yaml(file)
    log = ConversionLog()
    names = dict(enumerate(_name_list(file, log)))
    if not names:
        raise UserError(
            f'{file} names no classes: expected one a line.', code='unsupported-format'
        )
    root = file.parent
    base = root / 'images' if (root / 'images').is_dir() else root
    splits: dict[str, list[Path]] = {}
    folders = (split_of(image, base) for image in files_below(base, IMAGE_ENDINGS))
    for split, place in find_lists(root) or folders:
        if place not in splits.setdefault(split, []):
            splits[split].append(place)
    if 'train' in splits:
        splits.pop('', None)
    return _Description(file, root, names, splits or {'': [base]}, notes=log.notes)


def _name_list(file: Path, log: ConversionLog) -> list[str]:
    text = read_text(file, 'list of classes', log)
    return list(filter(None, map(str.strip, text.splitlines())))


def _from_yaml(file: Path) -> _Description:
    log = ConversionLog()
    content = _load(file, log)
    names, notes = _read_names(file, content.get('names'), content.get('nc'), log)
    root, other = _root(file, content.get('path'))
    splits: dict[str, list[Path]] = {}
    for split in ('train', 'val', 'test'):
        wanted = content.get(split)
        if split == 'val' and wanted is None:
            wanted = content.get('valid')
        places = _places(file, root, wanted, notes)
        if places:
            splits[split] = places
        elif wanted:
            notes.append(
                f'{split}: {clipped(repr(wanted))} of {file.name} is not there'
            )
    if not splits:
        raise UserError(
            f"none of 'train', 'val' and 'test' of {file} is there, looked for in "
            f'{root}. Correct them, or their common {"path"!r}.',
            code='no-images',
        )
    notes += [
        f'{split} is the same images as train'
        for split in ('val', 'test')
        if split in splits and splits[split] == splits.get('train')
    ]
    values = _keypoints(content.get('kpt_shape'))
    return _Description(file, root, names, splits, values, log.notes + other + notes)


def _load(file: Path, log: ConversionLog) -> dict[str, Any]:
    yaml = import_package('yaml', f'reading {file.name} needs PyYAML')
    text = read_text(file, 'description', log)
    text = _PATHS.sub(lambda paths: _BACKSLASH.sub('/', paths[0]), text)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{file} is not YAML: {clipped(reason, 200)}', code='not-yaml'
        ) from None
    return content if isinstance(content, dict) else {}


def _describes(file: Path) -> bool:
    """Whether a YAML file has names of classes, or is the usual one with folders."""
    if file.suffix.lower() not in _YAML:
        return False
    try:
        content = _load(file, ConversionLog())
        return 'names' in content or (file.stem in _STEMS and 'train' in content)
    except UserError as error:
        if isinstance(error, MissingPackageError) or file.stem in _STEMS:
            raise
        return False


def _read_names(
    file: Path, value: Any, number: Any, log: ConversionLog
) -> tuple[dict[int, str], list[str]]:
    """Return the names by id; a list counts from 0, a mapping may leave ids out.

    A text is the name of a file with a class a line, or has commas between classes.
    """
    if isinstance(value, str):
        listed = file.parent / value.replace('\\', '/').replace('\0', '')
        words = [word.strip(' "\'') for word in value.strip('[ ]').split(',')]
        value = _name_list(listed, log) if listed.is_file() else words
        if number not in (None, len(value)) or (
            listed.suffix and value is words and len(words) == 1
        ):
            raise UserError(
                f"'names' of {file} is text, of no file or of another number of names "
                "than 'nc'. Write a list: [cup, fork].",
                code='unsupported-format',
            )
    if isinstance(value, list):
        value = dict(enumerate(value))
    names, odd = {}, []
    for key, name in value.items() if isinstance(value, dict) else ():
        number = int(key) if isinstance(key, str) and key.isdecimal() else key
        if type(number) is not int or number < 0 or number in names:
            raise UserError(
                f"'names' of {file} must be a list, or whole numbers with a name each; "
                f'found {clipped(repr(key))}.',
                code='unsupported-format',
            )
        if not isinstance(name, (str, int, float)) or not str(name).strip():
            raise UserError(
                f"'names' of {file} must be texts; class {number} is "
                f'{type(name).__name__}.',
                code='unsupported-format',
            )
        names[number] = str(name).strip()
        odd += [names[number]] if isinstance(name, bool) else []
    if not names:
        raise UserError(f"{file} has no 'names' of classes.", code='unsupported-format')
    what = 'YAML reads yes, no, on and off so; put the name in quotes'
    notes = [f'class {name!r}: {what}' for name in odd]
    return dict(sorted(names.items())), notes


def _root(file: Path, wanted: Any) -> tuple[Path, list[str]]:
    """Return the folder that 'path' means: relative to the file, as a rule.

    It often names the folder of the machine where the data were made.
    """
    if not isinstance(wanted, str) or not wanted or '\0' in wanted:
        return file.parent, []
    root = file.parent / wanted.replace('\\', '/')  # an absolute one stays as it is
    if root.is_dir():
        return root, []
    note = (
        f'path: {clipped(wanted)} of {file.name} is not there; {file.parent} was taken'
    )
    return file.parent, [note]


def _places(file: Path, root: Path, wanted: Any, notes: list[str]) -> list[Path]:
    """Return the folders or lists of a split that exist; ``notes`` gets guesses."""
    found = []
    for text in wanted if isinstance(wanted, list) else [wanted]:
        if text and isinstance(text, str):
            path, guess = _find(text, [root, file.parent])
            found += [path] if path else []
            if guess:
                notes.append(f'{clipped(text)} of {file.name}: {path} was taken')
    return found


def _keypoints(shape: Any) -> int:
    """Return the numbers of ``kpt_shape``, which is (keypoints, values of each)."""
    if not isinstance(shape, list) or len(shape) != 2:
        return 0
    whole = all(type(length) is int and length > 0 for length in shape)
    return int(shape[0] * shape[1]) if whole else 0
