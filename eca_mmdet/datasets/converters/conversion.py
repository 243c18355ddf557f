"""Read the labels of other tools as COCO, written beside the source."""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import (
    completed,
    read_annotations,
    require_instances,
    write_new,
)
from eca_mmdet.datasets.converters import cvat, label_files, yolo
from eca_mmdet.datasets.converters.files import (
    SPLITS,
    by_split,
    files_below,
    root_tag,
)
from eca_mmdet.datasets.converters.labels import (
    Choices,
    ConversionLog,
    Kind,
    LabelledDataset,
    LabelledSplit,
)
from eca_mmdet.datasets.entries import Entry, is_image, is_segmentation
from eca_mmdet.datasets.images import find_by_base_name, find_missing, leaves_folder
from eca_mmdet.datasets.masks import set_area
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import clipped

_READERS: dict[Kind, Callable[[Path, Choices], LabelledDataset]] = {
    'yolo': yolo.read,
    'voc': label_files.read_voc,
    'labelme': lambda path, choices: label_files.read_labelme(path),
    'cvat': lambda path, choices: cvat.read(path),
}
_NAMES = {
    'coco': 'COCO',
    'yolo': 'YOLO',
    'voc': 'Pascal VOC',
    'labelme': 'LabelMe',
    'cvat': 'CVAT for images',
}
_ORDER = ('', 'train', 'val', 'test')
_CORRECTED = 'file names corrected to the only file of their base name'
_ARCHIVES = (b'PK\x03\x04', b'\x1f\x8b', b'7z\xbc\xaf', b'Rar!', b'BZh', b'\xfd7zXZ')

_SAMPLED_FILES = 20
"""Files of an ending that are opened to recognise a folder's kind."""

_SAMPLED_IMAGES = 50
"""Images of an annotation file that are looked for in a folder."""

_DIGITS = 4
"""Decimals of a coordinate in pixels; supervision's boxes are float32."""

_NO_INSTANCES = ('captions_', 'person_keypoints_', 'panoptic_', 'stuff_', 'image_info_')
"""COCO's files of the same images with other annotations than instances."""

_COCO = [rb'"%s"\s*:\s*\[' % key for key in (b'images', b'categories', b'annotations')]
_LABELME = rb'"(version|flags|imagePath|imageHeight|imageData)"\s*:'
_WINDOW = 1 << 16
"""First bytes of a JSON file, which must hold one of the keys."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """One annotation file.

    Attributes:
        split: 'train', 'val', 'test', or '' for a source without splits.
        file: the COCO file; of a source that is COCO, its own.
        images: folder that its file names are relative to.
        found_count: objects of the source, those that were left out too.
        joined_count: shapes of the source that are part of another's object.
        classes: names, in the order of the file's categories.
        written: False if the file was there already.
        notes: what was left out or changed, a line each.
    """

    split: str
    file: Path
    images: Path
    kind: Kind
    image_count: int
    annotation_count: int
    found_count: int
    joined_count: int
    classes: tuple[str, ...]
    written: bool
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        split: str,
        file: Path,
        images: Path,
        kind: Kind,
        content: Mapping[str, Any],
        log: ConversionLog,
        notes: Sequence[str] = (),
    ) -> Converted:
        """Describe the content of a file, before it is written."""
        count = len(content.get('annotations', ()))
        entries = [one for one in content['categories'] if isinstance(one, dict)]
        return cls(
            split,
            file,
            images,
            kind,
            image_count=len(content['images']),
            annotation_count=count,
            found_count=count + log.lost + log.joined,
            joined_count=log.joined,
            classes=tuple(str(entry.get('name')) for entry in entries),
            written=False,
            notes=(*notes, *log.notes),
        )


def kind_of(path: Path) -> Kind | None:
    """Recognise the format of a folder, COCO file, data.yaml or CVAT's annotations.xml.

    Raises:
        UserError: its data.yaml is not YAML, or there are several to choose from.
        MissingPackageError: PyYAML is not installed, and there is a .yaml file.
    """
    path = Path(path)
    if not path.exists():
        return None
    if _coco_files(path):
        return 'coco'
    if yolo.find_description(path):
        return 'yolo'
    if cvat.find_files(path):
        return 'cvat'
    if path.is_dir():
        xml = islice(files_below(path, ['.xml']), _SAMPLED_FILES)
        if any(root_tag(file) == 'annotation' for file in xml):
            return 'voc'
        shapes = islice(files_below(path, ['.json']), _SAMPLED_FILES)
        if any(_json_kind(file) == 'labelme' for file in shapes):
            return 'labelme'
    return None


def convert(
    path: Path, out: Path | None = None, choices: Choices | None = None
) -> list[Converted]:
    """Write a COCO file for each split of a source; the images stay where they are.

    Args:
        path: a folder, a data.yaml, CVAT's annotations.xml, or COCO already, for which
            a file is written only if names of images have to be corrected.
        out: folder to write to; None for the source's name and '-coco', beside it.
        choices: options, which decide what the labels do not say.

    Returns:
        The files in the order train, val, test.

    Raises:
        UserError: the format is unknown, nothing of it can be read, or other files are
            in the place of those to be written.
        MissingPackageError: supervision is not installed.
    """
    path, choices = Path(path), choices or Choices()
    kind = kind_of(path)
    if kind is None:
        raise _unknown(path)
    unused = {'yolo': choices[2:], 'voc': choices[:2]}.get(kind, choices)
    if any(choice is not None for choice in unused):
        raise UserError(
            '--labels and --units are for YOLO, --voc-origin for Pascal VOC; '
            f'{path} is of {_NAMES[kind]}.',
            code='option-conflict',
        )
    root = Path(os.path.abspath(path if path.is_dir() else path.parent))
    if kind == 'coco' and path.is_file() and root.name == 'annotations':
        root = root.parent
    beside = root.with_name(f'{root.name}-coco')
    if out is None and beside.is_symlink():
        raise UserError(
            f'{beside} is a link to another folder. Give the one to write to: --out.',
            code='option-missing',
        )
    out = beside if out is None else Path(out).absolute()
    inside = Path(os.path.realpath(out))
    if Path(os.path.realpath(root)) in (inside, *inside.parents):
        raise UserError(
            f'{out} is inside the source {root}, which is left as it is; give a folder '
            'outside it with --out.',
            code='option-conflict',
        )
    if kind == 'coco':
        converted, contents = _from_coco(path, root, out)
    else:
        source = _READERS[kind](path if kind in ('yolo', 'cvat') else root, choices)
        converted, contents = _to_coco(source, out)
    new = {file: c for file, c in contents.items() if not _is_same(file, c)}
    write_new(new)
    return [
        dataclasses.replace(part, written=part.file in new)
        for part in sorted(converted, key=lambda part: _ORDER.index(part.split))
    ]


def _unknown(path: Path) -> UserError:
    if not path.exists():
        what = f'{path} does not exist. Give the folder of a dataset.'
        return UserError(what, code='file-not-found')
    what = (
        f'{path} is of no known format: expected a folder of YOLO (data.yaml or '
        'classes.txt), Pascal VOC (XML files), LabelMe (JSON files), CVAT '
        '(annotations.xml) or COCO (annotations/*.json), unpacked.'
    )
    if path.is_file():
        with path.open('rb') as file:
            head = file.read(264)
        if head.startswith(_ARCHIVES) or head[257:262] == b'ustar':
            what = f'{path} is an archive. Unpack it, and give the folder.'
    return UserError(what, code='unsupported-format')


def _is_same(path: Path, content: Entry) -> bool:
    """Whether a file has this content already."""
    try:
        return completed(read_annotations(path).content) == completed(content)
    except UserError:
        return False


def _to_coco(
    source: LabelledDataset, out: Path
) -> tuple[list[Converted], dict[Path, Entry]]:
    """Return what will be written for each split, and the contents of the files."""
    converted: list[Converted] = []
    contents: dict[Path, Entry] = {}
    owners: dict[Path, str] = {}
    for part in sorted(source.splits, key=lambda part: _ORDER.index(part.split)):
        for name in (image['file_name'] for image in part.images):
            owner = owners.setdefault(part.folder / name, part.split)
            if owner != part.split:
                part.log.add(f'images of {part.split} that are in {owner} too', name)
        file = out / f'{part.split or "annotations"}.json'
        content = contents[file] = _content(source, part)
        about = part.split, file, part.folder, source.kind, content, part.log
        converted.append(Converted.of(*about, () if converted else source.log.notes))
    lost = sum(part.log.lost for part in source.splits)
    if lost and not any(part.annotation_count for part in converted):
        notes = '; '.join(note for part in source.splits for note in part.log.notes)
        raise UserError(
            f'none of the {lost} objects can be read, so nothing was written. {notes}',
            code='no-objects',
        )
    return converted, contents


def _content(source: LabelledDataset, part: LabelledSplit) -> Entry:
    annotations: list[Entry] = []
    for image, labelled in part.objects:
        x1, y1, x2, y2 = labelled.box
        mask = labelled.mask
        if isinstance(mask, list):
            mask = [[round(value, _DIGITS) for value in points] for points in mask]
        entry: Entry = {
            'id': len(annotations) + 1,
            'image_id': image['id'],
            'category_id': source.categories[labelled.category]['id'],
            'bbox': [round(value, _DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
            'segmentation': mask,
            'iscrowd': int(labelled.crowd),
            **labelled.more,
        }
        if mask and is_segmentation(mask):
            set_area(entry, (image['width'], image['height']))
        else:  # data check reports outlines that cannot be drawn
            entry['area'] = entry['bbox'][2] * entry['bbox'][3]
        annotations.append(entry)
    return {
        'info': {
            'description': f'{_NAMES[source.kind]} labels, by eca-mmdet data convert'
        },
        'images': part.images,
        'annotations': annotations,
        'categories': list(source.categories.values()),
    }


def _from_coco(
    path: Path, root: Path, out: Path
) -> tuple[list[Converted], dict[Path, Entry]]:
    """Describe COCO files; return contents where names of images are corrected."""
    converted: list[Converted] = []
    contents: dict[Path, Entry] = {}
    for file in _coco_files(path):
        content = read_annotations(file).content
        require_instances(file, content)
        folder, moved = _image_folder(file, content, root)
        split, log = _split_of(file), ConversionLog()
        images = []
        for entry in content['images']:
            name = entry['file_name'] if is_image(entry) else ''
            if name in moved:
                entry = entry | {'file_name': moved[name]}
                log.add(_CORRECTED, f'{name}: {moved[name]}')
            elif name.startswith('/') or '..' in re.split(r'[\\/]', name):
                log.add('file names that lead out of the folder of the images', name)
            images.append(entry)
        names = [image['file_name'] for image in filter(is_image, images)]
        inside = [name for name in names if not leaves_folder(name)]
        for name in find_missing(folder, inside).missing:
            log.add('images that are not there', name)
        paths = (Path('/', name) for name in names)
        if len(below := sorted({*by_split(paths, Path('/'))} - {''})) > 1:
            log.add(f'files with images of {", ".join(below)} in one', file.name)
        if moved:
            file = out / f'{split or "annotations"}.json'
            contents[file] = content | {'images': images}
        converted.append(Converted.of(split, file, folder, 'coco', content, log))
    for split, number in Counter(part.split for part in converted).items():
        if number > 1:
            names = [str(part.file) for part in converted if part.split == split][:4]
            raise UserError(
                f'{path} has {number} annotation files of the same split '
                f'({split or "no name"}): {", ".join(names)}. Give the one to use.',
                code='option-conflict',
            )
    return converted, contents


def _json_kind(path: Path) -> Kind | None:
    """Recognise a COCO or LabelMe file by the keys in it."""
    try:
        with path.open('rb') as file:
            head = file.read(_WINDOW)
            if b'"shapes"' in head and re.search(_LABELME, head):
                return 'labelme'
            if not any(re.search(key, head) for key in _COCO):
                return None
            # Between two of the keys there may be a list of any length.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                found = sum(bool(re.search(key, whole)) for key in _COCO)
    except (OSError, ValueError):
        return None
    return 'coco' if found > 1 else None


def _coco_files(path: Path) -> list[Path]:
    """Return the annotation files of a folder, or the file itself."""
    if path.is_file():
        return [path] if path.suffix == '.json' and _json_kind(path) == 'coco' else []
    folders = [path, path / 'annotations', *(path / name for name in SPLITS)]
    files = (file for folder in folders for file in sorted(folder.glob('*.json')))
    return [
        file
        for file in islice(files, 100)
        if not file.name.startswith(_NO_INSTANCES) and _json_kind(file) == 'coco'
    ]


def _split_of(file: Path) -> str:
    """Return the split in a file's name, or its folder's."""
    for text in (file.stem, file.parent.name):
        for word in re.split(r'[^a-z]+', text.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ''


def _image_folder(
    file: Path, content: dict[str, Any], root: Path
) -> tuple[Path, dict[str, str]]:
    """Return the folder that an annotation file's image names are relative to.

    Folders up to two levels below the root are tried. Also the names to correct.
    """
    names = [image['file_name'] for image in content['images'] if is_image(image)]
    usable = [name for name in names if '\0' not in name]
    step = max(1, len(usable) // _SAMPLED_IMAGES)
    subset = file.stem.removeprefix('instances_')
    folders = [root / 'images' / subset, root / subset, file.parent, root / 'images']
    folders += [root, *sorted(root.glob('*')), *sorted(root.glob('*/*'))]
    hits = {
        folder: sum(os.path.isfile(folder / name) for name in usable[::step])
        for folder in folders
        if folder.is_dir()
    }
    best = max(hits, key=lambda folder: hits[folder])
    best = best if hits[best] else root
    moved = find_by_base_name(best, usable)
    if not hits[best] and not moved:
        name = clipped(repr(names[0])) if names else 'none'
        raise UserError(
            f'no image of {file} was found in {root}; the first is {name}. Export with '
            'the images, or put them beside the annotations.',
            code='no-images',
        )
    return best, moved
