"""Repair ids: whole numbers, each used once, and what refers to them follows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eca_mmdet.datasets.entries import Entry, whole


def whole_ids(
    entries: list[Entry], annotations: list[Entry], kind: str, done: Counter[str]
) -> None:
    """Make the ids of images or categories whole numbers, where they must be.

    Text ids of images stay if all are text and so are the references; mmdet reads them.

    Args:
        entries: changed in place.
        annotations: changed in place.
        kind: 'image' or 'category'.
        done: counts of repairs, added to.
    """
    key = f'{kind}_id'
    ids = list(dict.fromkeys(one['id'] for one in entries))
    values = [*ids, *(one[key] for one in annotations)]
    if {*map(type, values)} <= {int}:
        return
    if kind == 'image' and {*map(type, values)} == {str}:
        return
    wholes = [whole(value) for value in ids]
    if None in wholes or len({*wholes}) < len(wholes):
        new: dict[Any, int | None] = {old: n for n, old in enumerate(ids, 1)}
        told = f'{kind} ids renumbered from 1'
    else:
        new = dict(zip(ids, wholes, strict=True))
        told = f'{kind} ids and references written as whole numbers'
    # A reference in another form, '7' for 7, means the same entry. One to nothing
    # becomes None, for under its number there may now be another entry.
    forms = {whole(old): number for old, number in new.items()} | {None: None}
    for one, name in [*((e, 'id') for e in entries), *((a, key) for a in annotations)]:
        value = one[name]
        number = new[value] if value in new else forms.get(whole(value))
        if type(value) is not int or number != value:  # 1.0 equals 1
            one[name] = number
            done[told] += 1


def merge_categories(
    categories: list[Entry], annotations: list[Entry], done: Counter[str]
) -> list[Entry]:
    """Return categories of which each name is there once; the first one stays.

    Equal ids of different names are left: nobody can tell which is meant.

    Args:
        categories: in the order of the file.
        annotations: their category ids are changed in place.
        done: counts of repairs, added to.
    """
    names = {one['id']: one['name'] for one in categories}
    unclear = {one['id'] for one in categories if one['name'] != names[one['id']]}
    first: dict[str, Any] = {}
    moved: dict[Any, Any] = {}
    kept = []
    for one in categories:
        name, key = one['name'], one['id']
        if key in unclear or name not in first:
            kept.append(one)
            if key not in unclear:
                first[name] = key
            continue
        done['categories merged into the first of their name'] += 1
        if key != first[name]:
            moved[key] = first[name]
    for annotation in annotations:
        if annotation['category_id'] in moved:
            annotation['category_id'] = moved[annotation['category_id']]
            done['annotations given the category they were merged into'] += 1
    return kept


def renumber(annotations: list[Entry], done: Counter[str]) -> None:
    """Number annotations from 1 if any id is 0, missing, used twice or not whole.

    Args:
        annotations: changed in place.
        done: counts of repairs, added to.
    """
    ids = [one.get('id') for one in annotations]
    wholes = [whole(value) for value in ids]
    good = 0 not in wholes and len({*wholes}) == len(wholes) and None not in wholes
    text = sum(type(value) is str for value in ids)
    if good and text in (0, len(ids)):
        return
    for number, one in enumerate(annotations, 1):
        one['id'] = number
    done['annotation ids renumbered from 1'] += len(annotations)
