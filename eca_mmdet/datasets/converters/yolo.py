"""Read a YOLO folder: a text file an image, a line an object.

Its description, data.yaml or classes.txt, names the classes and folders of the splits.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    files_below,
    split_folders,
    supervision_formats,
)
from eca_mmdet.datasets.converters.labels import (
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
from eca_mmdet.utils.text import clipped

_MOST_BYTES = 1 << 26
"""Largest file of labels or description."""

_STEMS = ('data', 'dataset')
_YAML = ('.yaml', '.yml')
_BARE = 'images without a label file: kept, without objects'
_MALFORMED = 'lines left out that are no YOLO label'


def read(path: Path) -> LabelledDataset:
    """Read a folder, or the data.yaml in it.

    Raises:
        UserError: it has no class names, or no images in the stated folders.
        MissingPackageError: supervision is not installed.
    """
    about = _describe(path)
    keys: dict[int | str, int] = {number: number + 1 for number in about.names}
    categories = [(number + 1, name) for number, name in about.names.items()]
    labels = _Labels(about)
    parts = [_read_split(*item, about, labels) for item in about.splits.items()]
    if all(part.log.count(_BARE) == len(part.images) for part in parts):
        raise UserError(
            f'no image of {path} has a label file: labels/a.txt was looked for beside '
            'images/a.jpg, and a.txt beside a.jpg. There is nothing to convert.',
            code='no-objects',
        )
    labels.log_unused(parts[0].log)
    return LabelledDataset('yolo', categories, keys, parts, about.notes)


def _read_split(
    split: str, places: list[Path], about: _Description, labels: _Labels
) -> LabelledSplit:
    log = ConversionLog()
    paths = [image for place in places for image in _images(place, about.root, log)]
    folder = places[0] if len(places) == 1 and places[0].is_dir() else None
    labels.begin(log)
    images = list(dict.fromkeys(paths))
    part = read_split(
        split, folder, images, log, labels.read, lambda image: len(labels.lines(image))
    )
    if not part.images:
        raise UserError(
            f'no image of {split or "the dataset"!r} can be read in '
            f'{", ".join(map(str, places))}. Is {about.file} right about the folders?',
            code='no-images',
        )
    return part


def _images(place: Path, root: Path, log: ConversionLog) -> Iterable[Path]:
    """Return the images of a folder, or those that a list names, a line each."""
    if place.is_dir():
        return files_below(place, IMAGE_ENDINGS)
    text = read_file(place, 'list of images').decode('utf-8-sig', 'replace')
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name = line.replace('\\', '/')
        short = name.removeprefix('data/')  # which CVAT and darknet put first
        tries = [place.parent / name, root / name, place.parent / short, root / short]
        path = next((p for p in tries if '\0' not in name and p.is_file()), None)
        if path:
            found.append(path)
        else:
            log.add(f'images left out that {place.name} names and are not there', line)
    return found


class _Labels:
    """The label files, split by split."""

    def __init__(self, about: _Description) -> None:
        self._about = about
        self._library = supervision_formats('yolo')
        self._used: set[Path] = set()
        self._folders: set[Path] = set()

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
        keypoints = self._about.keypoint_values
        if keypoints and len(values) == 5 + keypoints:
            self._log.add('objects whose keypoints are left out', where)
            values = values[:5]
        try:
            seen = self._library.yolo_annotations_to_detections(
                [' '.join(values)], size, with_masks=False
            )
        except (ValueError, OverflowError):  # a class id of more than 64 bits
            self._log.add(_MALFORMED, where, 1)
            return None
        number = int(seen.class_id[0])
        if number not in self._about.names:
            self._log.add(
                f'objects left out of a class id that {self._about.file.name} does not '
                'name',
                where,
                1,
            )
            return None
        if len(values) < 7:
            x1, y1, x2, y2 = map(float, seen.xyxy[0])
            return LabelledObject(number, (x1, y1, x2, y2))
        # supervision rounds the points to whole pixels, so they are read here. An even
        # count of values has a score at its end.
        numbers = list(map(float, values[1:]))
        pairs = zip(numbers[::2], numbers[1::2], strict=False)
        points = [(x * size[0], y * size[1]) for x, y in pairs]
        return LabelledObject.around(number, points)

    def log_unused(self, log: ConversionLog) -> None:
        """Count the labels that belong to no image of any split."""
        others = {'classes.txt', 'train.txt', 'val.txt', 'valid.txt', 'test.txt'}
        folders = {Path(os.path.abspath(folder)) for folder in self._folders}
        common, root = os.path.commonpath(folders), os.path.abspath(self._about.root)
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
                    f'{path.name}, {len(lines)} objects',
                    len(lines),
                )


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers from 1."""
    text = read_file(path, 'label file', _MOST_BYTES).decode('utf-8-sig', 'replace')
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
    file = find_description(path)
    if file is None:
        raise UserError(
            f'{path} has no data.yaml with names of classes, and no classes.txt.',
            code='unsupported-format',
        )
    if file.suffix.lower() in _YAML:
        return _from_yaml(file)
    raw = read_file(file, 'list of classes', _MOST_BYTES)
    text = raw.decode('utf-8-sig', 'replace')
    names = dict(enumerate(filter(None, map(str.strip, text.splitlines()))))
    if not names:
        raise UserError(
            f'{file} names no classes: expected one a line.', code='unsupported-format'
        )
    root = file.parent
    base = root / 'images' if (root / 'images').is_dir() else root
    folders = split_folders(base) or {'': base}
    return _Description(file, root, names, {key: [at] for key, at in folders.items()})


def _from_yaml(file: Path) -> _Description:
    content = _load(file)
    names, notes = _read_names(file, content.get('names'))
    root, other = _root(file, content.get('path'))
    splits: dict[str, list[Path]] = {}
    for split in ('train', 'val', 'test'):
        wanted = content.get(split)
        if split == 'val' and wanted is None:
            wanted = content.get('valid')
        places = _places(file, root, wanted)
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
    return _Description(file, root, names, splits, values, other + notes)


def _load(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingPackageError(
            f'reading {file.name} needs PyYAML, which is not installed. Install it: '
            "pip install 'eca-mmdet[data]'"
        ) from error
    raw = read_file(file, 'description', _MOST_BYTES)
    try:
        content = yaml.safe_load(raw)
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
        content = _load(file)
        return 'names' in content or (file.stem in _STEMS and 'train' in content)
    except UserError as error:
        if isinstance(error, MissingPackageError) or file.stem in _STEMS:
            raise
        return False


def _read_names(file: Path, value: Any) -> tuple[dict[int, str], list[str]]:
    """Return the names by id; a list counts from 0, a mapping may leave ids out."""
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
    root = file.parent / wanted  # an absolute one stays as it is
    if root.is_dir():
        return root, []
    note = (
        f'path: {clipped(wanted)} of {file.name} is not there; {file.parent} was taken'
    )
    return file.parent, [note]


def _places(file: Path, root: Path, wanted: Any) -> list[Path]:
    """Return the folders or lists of a split that exist."""
    found = []
    for text in wanted if isinstance(wanted, list) else [wanted]:
        if not text or not isinstance(text, str) or '\0' in text:
            continue
        # Roboflow writes '../train/images' beside train/; Ultralytics takes both.
        names = text, text.removeprefix('../')
        tries = [base / name for base in (root, file.parent) for name in names]
        found += [path for path in tries if path.exists()][:1]
    return found


def _keypoints(shape: Any) -> int:
    """Return the numbers of ``kpt_shape``, which is (keypoints, values of each)."""
    if not isinstance(shape, list) or len(shape) != 2:
        return 0
    whole = all(type(length) is int and length > 0 for length in shape)
    return int(shape[0] * shape[1]) if whole else 0
