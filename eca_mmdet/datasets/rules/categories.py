"""Check categories, class names, and two files against each other.

mmdet's CocoDataset labels objects by the order in which the file lists its categories
(``get_cat_ids``), whatever the order of ``classes``.
"""

from __future__ import annotations

import difflib
import filecmp
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.entries import Entry, category_name, is_category, is_image
from eca_mmdet.datasets.rules.faults import Fault, found


def plain(name: str) -> str:
    """Return a name without what people mistype: case and spaces."""
    return ' '.join(name.split()).casefold()


def check_categories(categories: list[Entry]) -> list[Fault]:
    """Find categories that are there twice, or nearly so.

    Args:
        categories: usable entries, in the order of the file.
    """
    ids, names = set[Any](), set[str]()
    same_id, same_name = [], []
    for one in categories:
        if one['id'] in ids:
            same_id.append(one)
        elif one['name'] in names:
            same_name.append(one)
        ids.add(one['id'])
        names.add(one['name'])
    spelt = Counter(map(plain, names))
    similar = sorted(name for name in names if spelt[plain(name)] > 1)
    return [
        *found('duplicate-category-id', same_id, category_name),
        *found('duplicate-category-name', same_name, category_name),
        *found('similar-category-names', similar, repr),
    ]


def check_classes(
    categories: list[Entry], classes: Sequence[str] | str | None
) -> list[Fault]:
    """Hold a config's class names against the file.

    Args:
        categories: usable entries, in the order of the file.
        classes: as in ``metainfo``; None means that nothing is to be checked.
    """
    if classes is None:
        return []
    if isinstance(classes, str):
        return found('classes-string', [repr(classes)])
    names = list(dict.fromkeys(one['name'] for one in categories))
    unknown = [name for name in classes if name not in names]

    def suggest(name: str) -> str:
        close = difflib.get_close_matches(plain(name), map(plain, names), n=1)
        like = next((n for n in names if close and plain(n) == close[0]), None)
        return repr(name) if like is None else f'{name!r}, the file has {like!r}'

    known = [name for name in classes if name in names]
    expected = [name for name in names if name in set(known)]
    moved = expected if known != expected else []
    order = found(
        'class-order', [f'the order of the file: {", ".join(moved)}'] * bool(moved)
    )
    return [*found('unknown-class', unknown, suggest), *order]


def compare_splits(
    train: dict[str, Any],
    val: dict[str, Any],
    classes: Sequence[str] | None = None,
    folders: tuple[Path, Path] | None = None,
) -> list[Fault]:
    """Hold the categories and the images of two files against each other.

    Args:
        train: content of the training file; ``images`` and ``categories`` are read.
        val: content of the validation file.
        classes: the names in use; None means all.
        folders: of the images of each. Equal file names in different folders are one
            image only if the files are equal.
    """
    return [
        *_compare_categories(_names(train, classes), _names(val, classes)),
        *_compare_images(train, val, folders),
    ]


def _names(content: dict[str, Any], classes: Sequence[str] | None) -> list[str]:
    names = [one['name'] for one in content['categories'] if is_category(one)]
    wanted = None if classes is None else set(map(plain, classes))
    return [
        name for name in dict.fromkeys(names) if wanted is None or plain(name) in wanted
    ]


def _compare_categories(train: list[str], val: list[str]) -> list[Fault]:
    spelt = {plain(name): name for name in train if name not in val}
    pairs = [(spelt[plain(n)], n) for n in val if n not in train and plain(n) in spelt]
    respelt = {name for pair in pairs for name in pair}
    missing = [n for n in train if n not in val and n not in respelt]
    extra = [n for n in val if n not in train and n not in respelt]
    order = [n for n in train if n in val]
    moved = [
        a for a, b in zip(order, [n for n in val if n in train], strict=True) if a != b
    ]
    return [
        *found('split-category-spelling', pairs, lambda p: f'{p[0]!r} and {p[1]!r}'),
        *found('split-missing-category', missing, repr),
        *found('split-extra-category', extra, repr),
        *found('split-category-order', moved, repr),
    ]


def _compare_images(
    train: dict[str, Any], val: dict[str, Any], folders: tuple[Path, Path] | None
) -> list[Fault]:
    files = {one['file_name'] for one in train['images'] if is_image(one)}
    both = dict.fromkeys(one['file_name'] for one in val['images'] if is_image(one))
    shared = [name for name in both if name in files]
    if folders is None:
        return found('split-same-file-name', shared, repr)
    if folders[0].resolve() != folders[1].resolve():
        shared = [
            name for name in shared if _equal(folders[0] / name, folders[1] / name)
        ]
    return found('split-leak', shared, repr)


def _equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except (OSError, ValueError):  # missing files are another check's
        return False
