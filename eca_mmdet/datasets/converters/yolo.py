"""Read a YOLO folder: a text file an image, a line an object.

Its description, data.yaml or classes.txt, names the classes and folders of the splits.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    by_split,
    decode,
    files_below,
    find_lists,
    read_text,
    split_of,
)
from eca_mmdet.datasets.converters.labels import (
    EXTRA,
    SUPERVISION,
    Choices,
    ConversionLog,
    LabelledDataset,
    LabelledObject,
    LabelledSplit,
    is_coordinate,
    read_split,
)
from eca_mmdet.datasets.entries import Entry, Size
from eca_mmdet.utils.errors import MissingPackageError, UserError, require_package
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped, plural

_MOST_BYTES = 1 << 26
"""Largest file of labels or description."""

_PATHS = re.compile(r'^(?:path|train|val|valid|test)\s*:.*(?:\n\s*-.*)*', re.M)
_BACKSLASH = re.compile(r'\\(?!x[\dA-F]{2}|u[\dA-F]{4}|U[\dA-F]{8}|\n)')
"""A separator: not the code of a character, nor a folded line."""

_STEMS = ('data', 'dataset')
_YAML = ('.yaml', '.yml')
_MALFORMED = 'lines left out that are no YOLO label'

_SHARE = 0.1
"""Share of the labels that may contradict a reading."""

_EDGE = 0.01
"""Distance that coordinates may exceed 0-1 by, as in Ultralytics."""

_LABELS = """Say how to read it: 'eca-mmdet data convert SOURCE --labels boxes' (a \
box, what follows it is left out) or '--labels polygons' (outlines, oriented boxes)."""
_UNITS = """coordinates are outside 0 to 1. Say what they are: 'eca-mmdet data convert \
SOURCE --units pixels' or, if they are over the edge, '--units normalized'."""


def read(path: Path, choices: Choices) -> LabelledDataset:
    """Read a folder, or the data.yaml in it.

    Raises:
        UserError: it has no class names, no images in the stated folders, or labels
            that can be read in several ways.
        MissingPackageError: supervision is not installed.
    """
    about = _describe(path)
    library = require_package('supervision.dataset.formats.yolo', SUPERVISION, EXTRA)
    logs = {split: ConversionLog() for split in about.splits}
    images = {split: _images(split, about, log) for split, log in logs.items()}
    files = {image: _label_file(image) for split in images.values() for image in split}
    if files and not any(files.values()):
        raise UserError(
            f'no image of {path} has a label file: labels/a.txt was looked for beside '
            'images/a.jpg, and a.txt beside a.jpg. There is nothing to convert.',
            code='no-objects',
        )
    labels = _numbers(files.values(), about)
    columns = _read_columns(labels, choices, about.keypoint_values > 0)
    reader = _Reader(about, choices.units == 'pixels', columns, library)
    parts = [
        _read_split(split, found, files, reader, logs[split])
        for split, found in images.items()
    ]
    _log_unused(about, files, parts[0].log)
    categories: dict[int | str, Entry] = {
        number: {'id': number + 1, 'name': name} for number, name in about.names.items()
    }
    return LabelledDataset('yolo', categories, parts, about.log)


def _read_split(
    split: str,
    images: list[Path],
    files: Mapping[Path, Path | None],
    reader: _Reader,
    log: ConversionLog,
) -> LabelledSplit:
    seen: set[Path | None] = {None}
    for image in images:
        if files[image] is None:
            log.add('images without a label file: kept, without objects', image.name)
        elif files[image] in seen:
            log.add('images that have the label file of another too', image.name)
        seen.add(files[image])
    places = reader.about.splits[split]
    part = read_split(
        split,
        places[0] if len(places) == 1 and places[0].is_dir() else None,
        images,
        log,
        lambda image, size: reader.read(files[image], size, log),
        lambda image: len(_lines(files[image])),
    )
    if not part.images:
        raise UserError(
            f'no image of {split or "the dataset"!r} can be read in '
            f'{", ".join(map(str, places))}. Is {reader.about.file} right?',
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
    """Return a path below a base, and whether that is a guess by the path's end."""
    name = stated.replace('\\', '/').replace('\0', '')
    parts = PurePosixPath(name).parts
    # Roboflow writes '../train/images' beside train/; CVAT and darknet 'data/' first.
    plain = (name, name.removeprefix('../'), name.removeprefix('data/'))
    for end in (*plain, *('/'.join(parts[at:]) for at in range(1, len(parts)))):
        for base in bases:
            if (base / end).exists():
                return base / end, end not in plain
    return None, False


def _places_of_labels(image: Path) -> list[Path]:
    """Return ``labels/a.txt`` of ``images/a.jpg``, and the place beside the image."""
    places = [image.with_suffix('.txt')]
    parts = image.parts
    if 'images' in parts:
        last = len(parts) - 1 - parts[::-1].index('images')
        apart = Path(*parts[:last], 'labels', *parts[last + 1 :])
        places.insert(0, apart.with_suffix('.txt'))
    return places


def _label_file(image: Path) -> Path | None:
    return next((path for path in _places_of_labels(image) if path.is_file()), None)


def _numbers(
    files: Iterable[Path | None], about: _Description
) -> Iterator[tuple[str, list[float]]]:
    """Yield the numbers after the class of each label, with its place."""
    for path in dict.fromkeys(files):
        for place, line in _lines(path):
            values = line.split()[1:]
            if len(values) > 3 and all(map(_is_number, values)):
                most = 4 if about.has_keypoints(values) else None
                label = f'{place}: {clipped(line, 50)}'
                yield label, list(map(float, values[:most]))


class _Reader(NamedTuple):
    """Reads label files whose columns are known."""

    about: _Description
    in_pixels: bool
    columns: _Columns
    library: Any

    def read(
        self, path: Path | None, size: Size, log: ConversionLog
    ) -> list[LabelledObject]:
        """Return the objects of an image."""
        found = [
            self._read_line(line, Path(place).name, size, log)
            for place, line in _lines(path)
        ]
        return [labelled for labelled in found if labelled is not None]

    def _read_line(
        self, line: str, place: str, size: Size, log: ConversionLog
    ) -> LabelledObject | None:
        values, where = line.split(), f'{place}: {clipped(line, 30)}'
        if not all(map(_is_number, values)):
            log.add(_MALFORMED, where, 1)
            return None
        width, height = (1, 1) if self.in_pixels else size
        count = len(values)
        boxes = self.columns.boxes or self.about.has_keypoints(values[1:])
        if count == 6 or (count > 6 and boxes):
            log.add(
                f'labels of {count} columns: the first five are read as a box, and '
                'keypoints, confidence or track id left out',
                where,
            )
            values = values[:5]
        try:
            seen = self.library.yolo_annotations_to_detections(
                [' '.join(values)], (width, height), with_masks=False
            )
        except (ValueError, OverflowError):  # a class id of more than 64 bits
            log.add(_MALFORMED, where, 1)
            return None
        category = int(seen.class_id[0])
        if category not in self.about.names:
            name = self.about.file.name
            what = f'objects left out of a class id that {name} does not name'
            log.add(what, where, 1)
            return None
        if len(values) == 5:
            x1, y1, x2, y2 = map(float, seen.xyxy[0])
            return LabelledObject(category, (x1, y1, x2, y2))
        # supervision rounds the points to whole pixels, so they are read here.
        numbers = self.columns.outline(list(map(float, values[1:])))
        if len(numbers) < count - 1:
            what = 'outlines whose confidence or track id at the end is left out'
            log.add(what, where)
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        points = [(x * width, y * height) for x, y in pairs]
        return LabelledObject.around(category, points)


def _log_unused(
    about: _Description, files: Mapping[Path, Path | None], log: ConversionLog
) -> None:
    """Count the labels that belong to no image of any split."""
    others = {'classes.txt', 'train.txt', 'val.txt', 'valid.txt', 'test.txt'}
    folders = {
        Path(os.path.abspath(place.parent))
        for image in files
        for place in _places_of_labels(image)
    }
    common, root = Path(os.path.commonpath(folders)), Path(os.path.abspath(about.root))
    if root in (common, *common.parents):
        folders = {common}
    used = {os.path.abspath(path) for path in files.values() if path}
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


def _lines(path: Path | None) -> list[tuple[str, str]]:
    """Return the lines that are not empty, each with the file's name and its number."""
    text = decode(read_file(path, 'label file', _MOST_BYTES)) if path else ''
    lines = enumerate(text.splitlines(), 1)
    return [(f'{path}:{number}', line) for number, line in lines if line.strip()]


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
    log: ConversionLog
    keypoint_values: int = 0

    def has_keypoints(self, values: Sequence[str]) -> bool:
        """Whether values are a box, the stated keypoints, confidence and track id."""
        end, keypoints = len(values) - 4 - self.keypoint_values, self.keypoint_values
        fits = keypoints > 0 and 0 <= end <= 2
        return fits and (end < 2 or float(values[-1]).is_integer())


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
    return _Description(file, root, names, splits or {'': [base]}, log)


def _name_list(file: Path, log: ConversionLog) -> list[str]:
    text = read_text(file, 'list of classes', log)
    return list(filter(None, map(str.strip, text.splitlines())))


def _from_yaml(file: Path) -> _Description:
    log = ConversionLog()
    content = _load(file, log)
    names = _read_names(file, content.get('names'), content.get('nc'), log)
    root, stated = file.parent, content.get('path')
    if isinstance(stated, str) and stated and '\0' not in stated:
        root = file.parent / stated.replace('\\', '/')  # an absolute one stays
        if not root.is_dir():  # often a folder of the machine where the data were made
            root = file.parent
            log.say(
                f'path: {clipped(stated)} of {file.name} is not there; {root} was taken'
            )
    splits: dict[str, list[Path]] = {}
    for split in ('train', 'val', 'test'):
        wanted = content.get(split)
        if split == 'val' and wanted is None:
            wanted = content.get('valid')
        for text in wanted if isinstance(wanted, list) else [wanted]:
            if not text or not isinstance(text, str):
                continue
            path, guess = _find(text, [root, file.parent])
            if path:
                splits.setdefault(split, []).append(path)
            if guess:
                log.say(f'{clipped(text)} of {file.name}: {path} was taken')
        if wanted and split not in splits:
            text = clipped(repr(wanted))
            log.say(f'{split}: {text} of {file.name} is not there')
    if not splits:
        raise UserError(
            f"none of 'train', 'val' and 'test' of {file} is there, looked for in "
            f'{root}. Correct them, or their common {"path"!r}.',
            code='no-images',
        )
    # Keypoints, values of each; YAML reads (17, 3) as text.
    pair = [*map(int, re.findall(r'\d+', str(content.get('kpt_shape'))))]
    values = math.prod(pair) if len(pair) == 2 else 0
    return _Description(file, root, names, splits, log, values)


def _load(file: Path, log: ConversionLog) -> dict[str, Any]:
    yaml = require_package('yaml', f'reading {file.name}', EXTRA)
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
    file: Path, value: Any, count: Any, log: ConversionLog
) -> dict[int, str]:
    """Return the names by id: of a list, a mapping, a file, or text with commas."""

    def error(what: str) -> UserError:
        return UserError(f"'names' of {file} {what}", code='unsupported-format')

    if isinstance(value, str):
        listed = file.parent / value.replace('\\', '/').replace('\0', '')
        words = [
            word.strip(' "\'') for word in re.split('[,;\n]', value.strip('[ ]\n'))
        ]
        is_list = listed.is_file()
        value = _name_list(listed, log) if is_list else words
        no_list = listed.suffix and not is_list and len(words) == 1
        if no_list or count not in (None, len(value)):
            raise error(
                'is text, of no file or of another number of names than '
                "'nc'. Write a list: [cup, fork]."
            )
    if isinstance(value, list):
        value = dict(enumerate(value))
    names: dict[int, str] = {}
    for key, name in value.items() if isinstance(value, dict) else ():
        number = int(key) if isinstance(key, str) and key.isdecimal() else key
        if type(number) is not int or number < 0 or number in names:
            raise error(
                'must be a list, or whole numbers with a name each; found '
                f'{clipped(repr(key))}.'
            )
        if not isinstance(name, (str, int, float)) or not str(name).strip():
            raise error(f'must be texts; class {number} is {type(name).__name__}.')
        names[number] = str(name).strip()
        if isinstance(name, bool):
            what = 'YAML reads yes, no, on and off so; put the name in quotes'
            log.say(f'class {names[number]!r}: {what}')
    if not names:
        raise UserError(f"{file} has no 'names' of classes.", code='unsupported-format')
    return dict(sorted(names.items()))


class _Columns(NamedTuple):
    """Reading of labels of more than six columns, the same in a whole dataset."""

    boxes: bool = False
    """The first four values are a box; otherwise all are an outline."""
    tracked: bool = False
    """An even number of values ends in a confidence and a track id."""

    def outline(self, values: Sequence[float]) -> Sequence[float]:
        """Return the coordinates of an outline, without confidence and track id."""
        tail = len(values) % 2 or 2 * (self.tracked and len(values) > 6)
        return values[: len(values) - tail]


def _read_columns(
    labels: Iterable[tuple[str, Sequence[float]]], choices: Choices, pose: bool
) -> _Columns:
    """Decide what the four or more values after a class mean, by all labels.

    Of ``pose``, labels with the stated keypoints are here by their boxes only.
    """
    counts: Counter[tuple[str, int]] = Counter()
    places: dict[str, str] = {}
    for place, values in labels:
        for fact in _facts(values):
            counts[fact, len(values)] += 1
            places.setdefault(fact, place)

    def total(fact: str, lengths: Iterable[int] = range(6, 10**6)) -> int:
        return sum(
            n for (key, at), n in counts.items() if key == fact and at in lengths
        )

    ids = total('id') > 0 and total('id') >= (1 - _SHARE) * total('even')
    oriented = total('oriented box') >= max(1, (1 - _SHARE) * total('long'))
    tracked = ids and (oriented or total('id above 1') > 0)
    columns = _Columns(choices.labels == 'boxes', tracked)
    outside = 'no tracked outline' if columns.tracked else 'no outline'
    why, boxes = '', total('label', [4])
    forms = ('two corners', 'a corner and a size')
    others = [form for form in forms if total(f'not {form}', [4]) <= _SHARE * boxes]
    long = {at: n for (key, at), n in counts.items() if key == 'long'}
    if choices.labels is None and 'unknown end' in places:
        why = f'{places["unknown end"]}: column 6 is no confidence and no track id'
    elif not any(choices) and total('leaves', [5]) > _SHARE * total('label', [5]):
        why = f'{places["leaves"]}: the first four values are not a box in the image'
    elif not any(choices) and total('leaves', [4]) > max(2, _SHARE * boxes) and others:
        why = f'{places["leaves"]}: the values may be {others[0]}'
    elif choices.labels is None and long and pose:
        why = f'{places["long"]}: the columns are not those of kpt_shape'
    elif choices.labels is None and long:
        most = max(long, key=lambda length: long[length])
        # Labels of one dataset have equally many keypoints, and an end or none.
        near, every = range(max(6, most - 2), most + 3), total('long')
        some = every if most == 6 else total('label', range(10**6))
        fit = total('long', near) - total('no box', near)
        box = fit >= (1 - _SHARE) * some and not oriented
        outline = total(outside) + ids * long.get(6, 0) <= _SHARE * every
        columns = columns._replace(boxes=box and not outline)
        if box == outline or choices.units == 'pixels':
            why = f'{places["long"]}: {most + 1} columns may be a box or an outline'
        elif outline and ids and not columns.tracked:
            why = f'{places["id"]}: the end may be a point, or confidence and track id'
    beyond = places.get('outside') or places.get('' if columns.boxes else outside)
    if beyond and not choices.units:
        raise UserError(f'{beyond}: {_UNITS}', code='option-missing')
    if why:
        raise UserError(f'{why}. {_LABELS}', code='option-missing')
    return columns


def _fit(values: Sequence[float]) -> bool:
    return all(-_EDGE <= value <= 1 + _EDGE for value in values)


def _facts(values: Sequence[float]) -> Iterable[str]:
    """Yield what a label has or cannot be."""
    count, (x, y, w, h, *rest) = len(values), values
    end = rest[-1] if rest else 0.0
    whole = end >= 0 and end == int(end)
    yield 'label'
    if not _fit(values[:4]):
        yield 'outside'
    leaves = not _fit([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    if count == 5 and not whole and not 0 <= end <= 1:
        yield 'unknown end'
    if count <= 5 and leaves:
        yield 'leaves'
    if not (x < w and y < h):
        yield 'not two corners'
    if not _fit([x + w, y + h]):
        yield 'not a corner and a size'
    if count < 6:
        return
    yield 'long'
    # After the box: keypoints of two or three values; a confidence; a track id.
    tails = [rest, *[rest[:-1]] * (whole or 0 <= end <= 1)]
    tails += [rest[:-2]] * (whole and 0 <= rest[-2] <= 1)
    pose = tails[-1] == [] or any(
        tail
        and len(tail) % size == 0
        and all(
            _fit([v]) if at % size < 2 else 0 <= v <= 1 or v == 2
            for at, v in enumerate(tail)
        )
        for tail in tails
        for size in (2, 3)
    )
    if not pose or leaves:
        yield 'no box'
    for tracked in (False, True):
        if not _fit(_Columns(tracked=tracked).outline(values)):
            yield f'no {"tracked " * tracked}outline'
    if count % 2 == 0:
        yield 'even'
        if whole and 0 < values[-2] <= 1 <= end:
            yield 'id'
            if end > 1:
                yield 'id above 1'
    pairs = values[:8:2], values[1:8:2]
    if 8 <= count <= 10 and all(abs(a - b + c - d) < _EDGE / 2 for a, b, c, d in pairs):
        yield 'oriented box'
