"""Entries that are no entries, ids, and references by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from eca_mmdet.datasets.entries import (
    Entry,
    annotation_name,
    image_name,
    other_form,
    whole,
)
from eca_mmdet.datasets.rules.rule import Content, Fix, Phase, Repair, Rule, Severity


def repeated(entries: list[Entry], key: str) -> list[Entry]:
    """Return the entries whose value came before."""
    if len({entry[key] for entry in entries}) == len(entries):
        return []
    # Written from the last to the first, so that the first of a value stays.
    first = {entry[key]: at for at, entry in reversed([*enumerate(entries)])}
    return [entry for at, entry in enumerate(entries) if first[entry[key]] != at]


def _malformed(key: str, kind: str, lacks: str) -> Rule[Content]:
    def count(repair: Repair) -> None:
        number = len(repair.malformed.get(key, ()))
        repair.done[f'malformed {kind} entries dropped'] += number

    return Rule(
        code=f'malformed-{kind}',
        severity='error',
        message=f'{kind if kind == "annotation" else f"{kind} entry"} without {lacks}',
        find=lambda content: content.malformed.get(key, []),
        describe=lambda at: f'{key}[{at}]',
        # A repair begins with the usable entries.
        fix=Fix('dropped', Phase.ENTRIES, count),
    )


def _wrong_type(content: Content) -> list[str]:
    """Return unusable ids, and references in another form."""
    kinds = {
        'image': content.images,
        'category': content.categories,
        'annotation': content.annotations,
    }
    wrong = [
        f'{kind} {value!r}'
        for kind, entries in kinds.items()
        for value in _unusable([entry.get('id') for entry in entries], kind)
    ]
    for key, known in _known_ids(content).items():
        unknown = [one[key] for one in content.annotations if one[key] not in known]
        wrong += [f'{key} {value!r}' for value in unknown if other_form(value) in known]
    return wrong


def _known_ids(content: Content) -> dict[str, set[Any]]:
    return {
        'image_id': {image['id'] for image in content.images},
        'category_id': {category['id'] for category in content.categories},
    }


def _unusable(ids: list[Any], kind: str) -> list[Any]:
    """Return the unusable ids; text is usable if all are text.

    pycocotools writes annotation ids into an array of floats.
    """
    kinds = Counter(map(type, ids))
    if set(kinds) <= {int}:
        return []
    mixed = 0 < kinds[str] < len(ids)
    return [
        value
        for value in ids
        if type(value) not in (int, float, str)
        or (type(value) is float and not value.is_integer())
        or (type(value) is str and mixed)
        or (type(value) is str and kind == 'annotation' and whole(value) is None)
    ]


def _make_ids_whole(repair: Repair) -> None:
    _make_whole(repair, repair.images, 'image')
    _make_whole(repair, repair.categories, 'category')


def _make_whole(repair: Repair, entries: list[Entry], kind: str) -> None:
    """Make the ids of images or categories whole numbers, where they must be.

    Text ids of images stay if all are text and so are the references; mmdet reads them.
    """
    key = f'{kind}_id'
    ids = list(dict.fromkeys(entry['id'] for entry in entries))
    types = {*map(type, ids), *(type(one[key]) for one in repair.annotations)}
    if types <= {int} or (kind == 'image' and types == {str}):
        return
    wholes = [whole(value) for value in ids]
    if None in wholes or len({*wholes}) < len(wholes):
        new: dict[Any, int | None] = {old: n for n, old in enumerate(ids, 1)}
        what = f'{kind} ids renumbered from 1'
    else:
        new = dict(zip(ids, wholes, strict=True))
        what = f'{kind} ids and references written as whole numbers'
    label = 'name' if kind == 'category' else 'file_name'
    named = {entry[label]: new[entry['id']] for entry in reversed(entries)}
    # A reference in another form, '7' for 7, means the same entry, and so does its
    # name. One to nothing becomes None, for under its number there may now be another.
    forms = {whole(old): number for old, number in new.items()} | {None: None}
    for rows, name in ((entries, 'id'), (repair.annotations, key)):
        for row in rows:
            value = row[name]
            number = new[value] if value in new else forms.get(whole(value))
            number = named.get(value) if number is None else number
            if type(value) is not int or number != value:  # 1.0 equals 1
                row[name] = number
                repair.done[what] += 1


def _numbered(content: Content) -> list[Entry]:
    return [
        one for one in content.annotations if type(one.get('id')) in (int, float, str)
    ]


def _renumber(repair: Repair) -> None:
    """Number annotations from 1 if any id is 0, missing, used twice or not whole."""
    ids = [one.get('id') for one in repair.annotations]
    wholes = [whole(value) for value in ids]
    good = 0 not in wholes and len({*wholes}) == len(wholes) and None not in wholes
    text = sum(type(value) is str for value in ids)
    if good and text in (0, len(ids)):
        return
    for number, one in enumerate(repair.annotations, 1):
        one['id'] = number
    repair.done['annotation ids renumbered from 1'] += len(ids)


def _merge_images(repair: Repair) -> None:
    """Keep the first of equal images."""
    seen: dict[Any, list[Entry]] = {}
    for image in repair.images:
        same_id = seen.setdefault(image['id'], [])
        if image in same_id:
            repair.done['repeated image entries dropped'] += 1
        else:
            same_id.append(image)
    kept = {id(image) for images in seen.values() for image in images}
    repair.images = [image for image in repair.images if id(image) in kept]


def drop(
    phase: Phase,
    find: Callable[[Content], Sequence[Entry]],
    what: str,
    summary: str = 'dropped',
) -> Fix:
    """Drop the annotations found, and count them as ``what``."""
    return Fix(summary, phase, lambda repair: repair.drop(find(repair.view()), what))


def _lost(code: str, severity: Severity, key: str, message: str) -> Rule[Content]:
    """Return the rule of references to nothing; 'id-type' reports another form."""
    kind = key.removesuffix('_id')

    def find(content: Content) -> list[Entry]:
        known = content.derive(_known_ids)[key]
        unknown = [one for one in content.annotations if one[key] not in known]
        return [one for one in unknown if other_form(one[key]) not in known]

    return Rule(
        code=code,
        severity=severity,
        message=message,
        find=find,
        describe=lambda one: f'{annotation_name(one)} of {kind} {one[key]!r}',
        fix=drop(
            Phase.REFERENCES,
            find,
            f'annotations of no {kind} dropped',
            'read if it is the name, otherwise dropped',
        ),
    )


MERGED = 'equal entries are merged; of different ones you must decide'

_MAKE_WHOLE = Fix(
    'ids become whole numbers, and what refers to them follows',
    Phase.IDS,
    _make_ids_whole,
)
_RENUMBER = Fix('ids renumbered from 1', Phase.NUMBERS, _renumber)

RULES: tuple[Rule[Content], ...] = (
    _malformed('images', 'image', "an 'id' or a 'file_name'"),
    _malformed('categories', 'category', "an 'id' or a 'name'"),
    _malformed('annotations', 'annotation', "an 'image_id' or a 'category_id'"),
    Rule(
        code='id-type',
        severity='error',
        message='id that is missing, fractional, or text where others are numbers',
        find=_wrong_type,
        fix=_MAKE_WHOLE,
    ),
    Rule(
        code='category-id-form',
        severity='warning',
        message="category id written as text or as 1.0: mmdet's classwise=True fails "
        'on it',
        find=lambda content: [
            one['id'] for one in content.categories if type(one['id']) is not int
        ],
        describe=repr,
        fix=_MAKE_WHOLE,
    ),
    Rule(
        code='zero-annotation-id',
        severity='error',
        message='annotation id 0: pycocotools counts the object as never found',
        find=lambda content: [
            one
            for one in content.derive(_numbered)
            if one['id'] == 0 or whole(one['id']) == 0
        ],
        describe=annotation_name,
        fix=_RENUMBER,
    ),
    Rule(
        code='duplicate-annotation-id',
        severity='error',
        message='annotation id used before: mmdet refuses the file, pycocotools hides '
        'an object',
        find=lambda content: repeated(content.derive(_numbered), 'id'),
        describe=annotation_name,
        fix=_RENUMBER,
    ),
    Rule(
        code='duplicate-image-id',
        severity='error',
        message='image id used before: of the images that share it only the last is '
        'seen, with the objects of all',
        find=lambda content: repeated(content.images, 'id'),
        describe=image_name,
        fix=Fix(MERGED, Phase.DUPLICATES, _merge_images),
    ),
    _lost(
        'orphan-annotation',
        'warning',
        'image_id',
        'annotation of an image that is not in the file',
    ),
    _lost(
        'unknown-category',
        'error',
        'category_id',
        'annotation of a category that is not in the file: mmdet trains the object as '
        'background',
    ),
)
