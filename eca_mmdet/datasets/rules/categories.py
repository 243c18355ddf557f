"""Categories of one annotation file or two, and the class names of a config.

mmdet's CocoDataset labels objects by the order in which the file lists its categories
(``get_cat_ids``), whatever the order of ``classes``.
"""

from __future__ import annotations

import difflib
import filecmp
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.entries import Entry, is_category, is_image
from eca_mmdet.datasets.rules.entries import MERGED
from eca_mmdet.datasets.rules.rule import Content, Fault, Fix, Phase, Repair, Rule


def plain(name: str) -> str:
    """Return a name without what people mistype: case and spaces."""
    return ' '.join(name.split()).casefold()


def _duplicates(content: Content) -> tuple[list[Entry], list[Entry]]:
    """Return categories whose id came before, and others whose name did."""
    ids, names = set[Any](), set[str]()
    same_id, same_name = [], []
    for category in content.categories:
        if category['id'] in ids:
            same_id.append(category)
        elif category['name'] in names:
            same_name.append(category)
        ids.add(category['id'])
        names.add(category['name'])
    return same_id, same_name


def _merge_categories(repair: Repair) -> None:
    """Keep the first category of each name.

    Equal ids of different names stay: which one annotations mean cannot be known.
    """
    names = {one['id']: one['name'] for one in repair.categories}
    unclear = {c['id'] for c in repair.categories if c['name'] != names[c['id']]}
    first: dict[str, Any] = {}
    moved: dict[Any, Any] = {}
    kept = []
    for category in repair.categories:
        name, key = category['name'], category['id']
        if key in unclear or name not in first:
            kept.append(category)
            if key not in unclear:
                first[name] = key
            continue
        repair.done['categories merged into the first of their name'] += 1
        if key != first[name]:
            moved[key] = first[name]
    repair.categories = kept
    for one in repair.annotations:
        if one['category_id'] in moved:
            one['category_id'] = moved[one['category_id']]
            repair.done['annotations given the category they were merged into'] += 1


def _similar(content: Content) -> list[str]:
    names = {category['name'] for category in content.categories}
    spellings = Counter(map(plain, names))
    return sorted(name for name in names if spellings[plain(name)] > 1)


def _names(content: Content) -> list[str]:
    return list(dict.fromkeys(one['name'] for one in content.categories))


def _classes(content: Content) -> list[str]:
    """Return the class names to compare; those in one string are another rule's."""
    return [] if isinstance(content.classes, str) else list(content.classes or ())


def _unknown(content: Content) -> list[tuple[str, list[str]]]:
    """Return each unknown class, and the names that it may stand for."""
    names = _names(content)
    return [(name, names) for name in _classes(content) if name not in names]


def _suggest(unknown: tuple[str, list[str]]) -> str:
    name, names = unknown
    close = difflib.get_close_matches(plain(name), map(plain, names), n=1)
    like = next((one for one in names if close and plain(one) == close[0]), None)
    return repr(name) if like is None else f'{name!r}, the file has {like!r}'


def _wrong_order(content: Content) -> list[str]:
    names = _names(content)
    known = [name for name in _classes(content) if name in names]
    expected = [name for name in names if name in set(known)]
    if known == expected:
        return []
    return [f'the order of the file: {", ".join(expected)}']


def _without_objects(content: Content) -> list[str]:
    if not content.annotations:
        return []
    used = {one['category_id'] for one in content.annotations}
    names = [one['name'] for one in content.categories if one['id'] not in used]
    if content.classes is None or isinstance(content.classes, str):
        return names
    return [name for name in names if name in set(content.classes)]


RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='duplicate-category-id',
        severity='error',
        message='category id used before: labels exceed the number of classes',
        find=lambda content: content.derive(_duplicates)[0],
        fix=Fix(MERGED, Phase.DUPLICATES, _merge_categories),
    ),
    Rule(
        code='duplicate-category-name',
        severity='error',
        message='category name used before: labels exceed the number of classes',
        find=lambda content: content.derive(_duplicates)[1],
        fix=Fix(
            'merged into the first of the name', Phase.DUPLICATES, _merge_categories
        ),
    ),
    Rule(
        code='similar-category-names',
        severity='warning',
        message='category names that differ only by case or spaces are separate '
        'classes',
        find=_similar,
        describe=repr,
    ),
)

CLASS_RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='classes-string',
        severity='error',
        message='classes is one string, which mmdet takes for a file name or part of a '
        "name. Give separate words; in a config ('person',) with a comma",
        find=lambda content: (
            [content.classes] if isinstance(content.classes, str) else []
        ),
        describe=repr,
    ),
    Rule(
        code='unknown-class',
        severity='error',
        message='class that is not in the file: mmdet leaves it out and shifts the '
        'labels of the others',
        find=_unknown,
        describe=_suggest,
    ),
    Rule(
        code='class-order',
        severity='error',
        message="classes are not in the order of the file's categories, by which mmdet "
        'numbers labels: objects get the names of others',
        find=_wrong_order,
    ),
)

COVERAGE_RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='no-annotations',
        severity='note',
        message='no annotations: image information alone, good for testing',
        find=lambda content: (
            [] if content.annotations else ["'annotations' is empty or not there"]
        ),
    ),
    Rule(
        code='class-without-objects',
        severity='note',
        message='class without an annotation',
        find=_without_objects,
        describe=repr,
    ),
)


@dataclass
class Splits:
    """The content of a training and a validation file.

    Attributes:
        classes: the names in use; None means all.
        folders: image folders of the two. Equal file names in different folders are one
            image only if the files are equal.
    """

    train_content: dict[str, Any]
    val_content: dict[str, Any]
    classes: Sequence[str] | None = None
    folders: tuple[Path, Path] | None = None

    @cached_property
    def train(self) -> list[str]:
        """Names of the training file's categories in use."""
        return self._names(self.train_content)

    @cached_property
    def val(self) -> list[str]:
        """Names of the validation file's categories in use."""
        return self._names(self.val_content)

    def _names(self, content: dict[str, Any]) -> list[str]:
        names = dict.fromkeys(
            c['name'] for c in content['categories'] if is_category(c)
        )
        if self.classes is None:
            return list(names)
        wanted = set(map(plain, self.classes))
        return [name for name in names if plain(name) in wanted]

    @cached_property
    def spellings(self) -> list[tuple[str, str]]:
        """Pairs of names that differ by case or spaces."""
        only = {plain(name): name for name in self.train if name not in self.val}
        return [
            (only[plain(name)], name)
            for name in self.val
            if name not in self.train and plain(name) in only
        ]

    def only_in(self, names: list[str], other: list[str]) -> list[str]:
        """Return the names that the other file has in no spelling."""
        respelt = {name for pair in self.spellings for name in pair}
        return [name for name in names if name not in other and name not in respelt]

    def moved(self) -> list[str]:
        """Return common names that are at another place among the common ones."""
        train = [name for name in self.train if name in self.val]
        val = [name for name in self.val if name in self.train]
        return [a for a, b in zip(train, val, strict=True) if a != b]

    @cached_property
    def common_files(self) -> list[str]:
        """File names that both have."""
        train, val = (
            dict.fromkeys(
                one['file_name'] for one in content['images'] if is_image(one)
            )
            for content in (self.train_content, self.val_content)
        )
        return [name for name in val if name in train]

    def leaked(self) -> list[str]:
        """Return the common file names that are the same image."""
        if self.folders is None:
            return []
        train, val = self.folders
        if train.resolve() == val.resolve():
            return self.common_files
        return [name for name in self.common_files if _equal(train / name, val / name)]


def _equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except (OSError, ValueError):  # missing files are another rule's
        return False


SPLIT_RULES: tuple[Rule[Splits], ...] = (
    Rule(
        code='split-category-spelling',
        severity='error',
        message='category spelt differently in the two files, by case or spaces alone',
        find=lambda splits: splits.spellings,
        describe=lambda pair: f'{pair[0]!r} and {pair[1]!r}',
    ),
    Rule(
        code='split-missing-category',
        severity='error',
        message='category of the training file that the validation file lacks: labels '
        'shift and AP is wrong',
        find=lambda splits: splits.only_in(splits.train, splits.val),
        describe=repr,
    ),
    Rule(
        code='split-extra-category',
        severity='warning',
        message='category of the validation file that the training file lacks: never '
        'learnt',
        find=lambda splits: splits.only_in(splits.val, splits.train),
        describe=repr,
    ),
    Rule(
        code='split-category-order',
        severity='error',
        message='the two files list their categories in another order, by which mmdet '
        'numbers labels: AP is wrong',
        find=Splits.moved,
        describe=repr,
    ),
    Rule(
        code='split-same-file-name',
        severity='warning',
        message='file name in both training and validation; with --images and '
        '--val-images the files themselves are compared',
        find=lambda splits: [] if splits.folders else splits.common_files,
        describe=repr,
    ),
    Rule(
        code='split-leak',
        severity='warning',
        message='image in both training and validation',
        find=Splits.leaked,
        describe=repr,
    ),
)


def compare_splits(
    train: dict[str, Any],
    val: dict[str, Any],
    classes: Sequence[str] | None = None,
    folders: tuple[Path, Path] | None = None,
) -> list[Fault]:
    """Find faults of two files together; arguments as for :class:`Splits`."""
    splits = Splits(train, val, classes, folders)
    return [fault for rule in SPLIT_RULES for fault in rule.check(splits)]
