"""The description of a YOLO dataset: class names, and folders of its splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.converters.files import files_below, split_folders
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import read_file
from eca_mmdet.utils.text import clipped

_MOST_BYTES = 1 << 24
_STEMS = ('data', 'dataset')
_YAML = ('.yaml', '.yml')


@dataclasses.dataclass
class Description:
    """Class names and splits of a dataset.

    Attributes:
        file: that says it.
        root: folder that paths are relative to.
        names: of the classes, by YOLO's ids, which may have gaps.
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
    found = [one for one in files if _describes(one)]
    named = [one for one in found if one.stem in _STEMS]
    if len(found) > 1 and len(named) != 1:
        raise UserError(
            f'{path} has several files that describe YOLO data: '
            f'{", ".join(one.name for one in found)}. Give the one to read.',
            code='option-conflict',
        )
    if found:
        return (named or found)[0]
    lists = [one for one in files if one.name == 'classes.txt']
    lists += [one for one in files if one.suffix == '.names']
    if lists and any(one not in lists for one in files_below(path, ['.txt'])):
        return lists[0]
    return None


def describe(path: Path) -> Description:
    """Read the description of a folder, or a data.yaml.

    Raises:
        UserError: there is none, or it names no classes or folders that exist.
    """
    file = find_description(path)
    if file is None:
        raise UserError(
            f'{path} has no data.yaml with names of classes, and no classes.txt.',
            code='unsupported-format',
        )
    if file.suffix.lower() in _YAML:
        return _from_yaml(file)
    text = read_file(file, 'list of classes', _MOST_BYTES).decode(
        'utf-8-sig', 'replace'
    )
    names = dict(enumerate(filter(None, map(str.strip, text.splitlines()))))
    if not names:
        raise UserError(
            f'{file} names no classes: expected one a line.', code='unsupported-format'
        )
    root = file.parent
    base = root / 'images' if (root / 'images').is_dir() else root
    folders = split_folders(base) or {'': base}
    return Description(file, root, names, {key: [at] for key, at in folders.items()})


def _from_yaml(file: Path) -> Description:
    content = _load(file)
    names, notes = _read_names(file, content.get('names'))
    root, other = _root(file, content.get('path'))
    splits: dict[str, list[Path]] = {}
    for key, split in (('train', 'train'), ('val', 'val'), ('test', 'test')):
        wanted = content.get(key)
        if key == 'val' and wanted is None:
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
    same = [key for key in ('val', 'test') if splits.get(key) == splits.get('train')]
    notes += [f'{key} is the same images as train' for key in same if key in splits]
    values = _keypoints(content.get('kpt_shape'))
    return Description(file, root, names, splits, values, other + notes)


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
    """Tell a YAML file with names of classes, or the usual one with folders."""
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
    pairs = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        pairs = list(enumerate(value))
    names, odd = {}, []
    for key, name in pairs:
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
    notes = [
        f'class {name!r}: YAML reads yes, no, on and off so; put the name in quotes'
        for name in odd
    ]
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
    texts = [one for one in (wanted if isinstance(wanted, list) else [wanted]) if one]
    found = []
    for text in texts:
        if not isinstance(text, str) or '\0' in text:
            continue
        # Roboflow writes '../train/images' beside train/; Ultralytics takes both.
        names = text, text.removeprefix('../')
        tries = [base / name for base in (root, file.parent) for name in names]
        there = next((one for one in tries if one.exists()), None)
        found += [there] if there else []
    return found


def _keypoints(shape: Any) -> int:
    if (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(one) is int and one > 0 for one in shape)
    ):
        return int(shape[0] * shape[1])
    return 0
