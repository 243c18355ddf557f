"""Categories of one annotation file or two, and the class names of a config.

mmdet's CocoDataset labels objects by the order in which the file lists its categories
(``get_cat_ids``), whatever the order of ``classes``.
"""

from __future__ import annotations

import difflib
import filecmp
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.entries import Entry, is_category, is_image
from eca_mmdet.datasets.rules.entries import MERGED
from eca_mmdet.datasets.rules.rule import Content, Fault, Fix, Phase, Rule


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


def _merge_categories(content: Content) -> None:
    """Keep the first category of each name.

    Equal ids of different names stay: which one annotations mean cannot be known.
    """
    names = {one['id']: one['name'] for one in content.categories}
    unclear = {c['id'] for c in content.categories if c['name'] != names[c['id']]}
    first: dict[str, Any] = {}
    moved: dict[Any, Any] = {}
    kept = []
    for category in content.categories:
        name, key = category['name'], category['id']
        if key in unclear or name not in first:
            kept.append(category)
            if key not in unclear:
                first[name] = key
            continue
        content.done['categories merged into the first of their name'] += 1
        if key != first[name]:
            moved[key] = first[name]
    content.categories = kept
    for one in content.annotations:
        if one['category_id'] in moved:
            one['category_id'] = moved[one['category_id']]
            content.done['annotations given the category they were merged into'] += 1


def _similar(content: Content) -> list[str]:
    names = {category['name'] for category in content.categories}
    spellings = Counter(map(plain, names))
    return sorted(name for name in names if spellings[plain(name)] > 1)


def _names(content: Content) -> list[str]:
    return list(dict.fromkeys(one['name'] for one in content.categories))


def _classes(content: Content) -> list[str]:
    """Return the class names to compare; those in one string are another rule's."""
    return [] if isinstance(content.classes, str) else list(content.classes or ())


def _unknown(content: Content) -> list[str]:
    """Return each unknown class, and the name that it may stand for."""
    names = _names(content)
    by_plain = {plain(name): name for name in reversed(names)}
    found = []
    for name in _classes(content):
        if name not in names:
            close = difflib.get_close_matches(plain(name), map(plain, names), n=1)
            like = f', the file has {by_plain[close[0]]!r}' if close else ''
            found.append(f'{name!r}{like}')
    return found


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
    Rule.of(
        'duplicate-category-id',
        lambda content: content.derive(_duplicates)[0],
        Fix(MERGED, Phase.DUPLICATES, _merge_categories),
    ),
    Rule.of(
        'duplicate-category-name',
        lambda content: content.derive(_duplicates)[1],
        Fix('merged into the first of the name', Phase.DUPLICATES, _merge_categories),
    ),
    Rule.of('similar-category-names', _similar, describe=repr),
)

CLASS_RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'classes-string',
        lambda content: [content.classes] if isinstance(content.classes, str) else [],
        describe=repr,
    ),
    Rule.of('unknown-class', _unknown),
    Rule.of('class-order', _wrong_order),
)

COVERAGE_RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'no-annotations',
        lambda content: (
            [] if content.annotations else ["'annotations' is empty or not there"]
        ),
    ),
    Rule.of('class-without-objects', _without_objects, describe=repr),
)


def _names_in_use(content: dict[str, Any], classes: Sequence[str] | None) -> list[str]:
    names = dict.fromkeys(
        one['name'] for one in content['categories'] if is_category(one)
    )
    wanted = set(map(plain, names if classes is None else classes))
    return [name for name in names if plain(name) in wanted]


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except (OSError, ValueError):  # missing files are another rule's
        return False


SPLIT_RULES: tuple[Rule[dict[str, list[str]]], ...] = tuple(
    Rule.of(code, itemgetter(code))
    for code in (
        'split-category-spelling',
        'split-missing-category',
        'split-extra-category',
        'split-category-order',
        'split-same-file-name',
        'split-leak',
    )
)
"""They take what was found, by code."""


def compare_splits(
    train: dict[str, Any],
    val: dict[str, Any],
    classes: Sequence[str] | None = None,
    folders: tuple[Path, Path] | None = None,
) -> list[Fault]:
    """Find faults of the contents of a training and a validation file together.

    Args:
        train: content of the training file.
        val: content of the validation file.
        classes: the names in use; None means all.
        folders: image folders of the two. Equal file names in different folders are
            one image only if the files are equal.
    """
    names, others = _names_in_use(train, classes), _names_in_use(val, classes)
    only = {plain(name): name for name in names if name not in others}
    respelt = [
        (only[plain(name)], name)
        for name in others
        if name not in names and plain(name) in only
    ]
    both = {name for pair in respelt for name in pair}
    missing = [name for name in names if name not in others and name not in both]
    extra = [name for name in others if name not in names and name not in both]
    orders = (
        [name for name in names if name in others],
        [n for n in others if n in names],
    )
    moved = [name for name, other in zip(*orders, strict=True) if name != other]
    files = {image['file_name'] for image in train['images'] if is_image(image)}
    common = dict.fromkeys(
        image['file_name']
        for image in val['images']
        if is_image(image) and image['file_name'] in files
    )
    leaked: list[str] = []
    if folders is not None:
        one, other = folders
        same_folder = one.resolve() == other.resolve()
        leaked = [
            name
            for name in common
            if same_folder or _is_same_file(one / name, other / name)
        ]
    found = {
        'split-category-spelling': [f'{a!r} and {b!r}' for a, b in respelt],
        'split-missing-category': list(map(repr, missing)),
        'split-extra-category': list(map(repr, extra)),
        'split-category-order': list(map(repr, moved)),
        'split-same-file-name': [] if folders else list(map(repr, common)),
        'split-leak': list(map(repr, leaked)),
    }
    return [fault for rule in SPLIT_RULES for fault in rule.check(found)]
