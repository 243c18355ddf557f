"""Read a YOLO folder: a text file an image, a line an object."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from eca_mmdet.datasets.converters.files import (
    IMAGE_ENDINGS,
    files_below,
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
from eca_mmdet.datasets.converters.yolo_description import Description, describe
from eca_mmdet.datasets.entries import Size
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped

_MOST_BYTES = 1 << 26
"""Of the labels of one image."""

_BARE = 'images without a label file: kept, without objects'
_MALFORMED = 'lines left out that are no YOLO label'


def read(path: Path) -> LabelledDataset:
    """Read a folder, or the data.yaml in it.

    Raises:
        UserError: no class names, or no images where it says that they are.
        MissingPackageError: supervision is not installed.
    """
    about = describe(path)
    keys: dict[int | str, int] = {number: number + 1 for number in about.names}
    categories = [(number + 1, name) for number, name in about.names.items()]
    labels = _Labels(about)
    parts = [_read_split(*one, about, labels) for one in about.splits.items()]
    if all(one.log.count(_BARE) == len(one.images) for one in parts):
        raise UserError(
            f'no image of {path} has a label file: labels/a.txt was looked for beside '
            'images/a.jpg, and a.txt beside a.jpg. There is nothing to convert.',
            code='no-objects',
        )
    labels.log_unused(parts[0].log)
    return LabelledDataset('yolo', categories, keys, parts, about.notes)


def _read_split(
    split: str, places: list[Path], about: Description, labels: _Labels
) -> LabelledSplit:
    log = ConversionLog()
    paths = [image for place in places for image in _images(place, about.root, log)]
    folder = places[0] if len(places) == 1 and places[0].is_dir() else None
    labels.begin(log)
    part = read_split(split, folder, list(dict.fromkeys(paths)), log, labels.read)
    if not part.images:
        raise UserError(
            f'no image of {split or "the data set"!r} can be read in '
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
        short = name.removeprefix('data/')  # as CVAT and darknet begin them
        tries = [place.parent / name, root / name, place.parent / short, root / short]
        there = next((one for one in tries if '\0' not in name and one.is_file()), None)
        if there:
            found.append(there)
        else:
            log.add(f'images left out that {place.name} names and are not there', line)
    return found


class _Labels:
    """The label files, split by split."""

    def __init__(self, about: Description) -> None:
        self._about = about
        self._library = supervision_formats('yolo')
        self._used: set[Path] = set()
        self._folders: set[Path] = set()

    def begin(self, log: ConversionLog) -> None:
        """Read a split from now on."""
        self._log = log
        self._seen: set[Path] = set()

    def read(self, image: Path, size: Size) -> list[LabelledObject]:
        """Return the objects of an image; without a size only as many as there are."""
        path = self._file_of(image)
        if path is None:
            self._log.add(_BARE, image.name)
            return []
        if path in self._seen:
            self._log.add('images that have the label file of another too', image.name)
        self._seen.add(path)
        self._used.add(path)
        lines = _lines(path)
        if not all(size):
            return [LabelledObject(0, (0, 0, 0, 0))] * len(lines)
        objects = []
        for number, line in lines:
            where = f'{path.name}:{number}: {clipped(line, 30)}'
            labelled = self._read_line(line, size, where)
            if labelled is not None:
                objects.append(labelled)
        return objects

    def _file_of(self, image: Path) -> Path | None:
        """Find ``labels/a.txt`` of ``images/a.jpg``, or the file beside the image."""
        tries = [image.with_suffix('.txt')]
        parts = image.parts
        if 'images' in parts:
            last = len(parts) - 1 - parts[::-1].index('images')
            tries.insert(0, Path(*parts[:last], 'labels', *parts[last + 1 :]))
            tries[0] = tries[0].with_suffix('.txt')
        self._folders.update(one.parent for one in tries)
        return next((one for one in tries if one.is_file()), None)

    def _read_line(self, line: str, size: Size, where: str) -> LabelledObject | None:
        values = line.split()
        if not all(map(_is_number, values)):
            self._log.add(_MALFORMED, where, 1)
            return None
        if (
            self._about.keypoint_values
            and len(values) == 5 + self._about.keypoint_values
        ):
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
        points = list(map(float, values[1:]))
        points = points[: len(points) // 2 * 2]
        xs = [x * size[0] for x in points[::2]]
        ys = [y * size[1] for y in points[1::2]]
        outline = [value for point in zip(xs, ys, strict=True) for value in point]
        return LabelledObject(number, (min(xs), min(ys), max(xs), max(ys)), [outline])

    def log_unused(self, log: ConversionLog) -> None:
        """Count the labels that belong to no image of any split."""
        others = {'classes.txt', 'train.txt', 'val.txt', 'valid.txt', 'test.txt'}
        folders = {Path(os.path.abspath(one)) for one in self._folders}
        common, root = os.path.commonpath(folders), os.path.abspath(self._about.root)
        if Path(root) in (Path(common), *Path(common).parents):
            folders = {Path(common)}
        used = {os.path.abspath(one) for one in self._used}
        found = {str(one) for at in folders for one in files_below(at, ['.txt'])}
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
