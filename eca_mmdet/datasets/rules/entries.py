"""Entries, ids and references; sizes and files of images; categories and classes.

mmdet's CocoDataset labels objects by the order in which the file lists its categories
(``get_cat_ids``), whatever the order of ``classes``.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from typing import Any

from eca_mmdet.datasets.entries import (
    Entry,
    entry_name,
    image_name,
    other_form,
    read_number,
    size_of,
    whole,
)
from eca_mmdet.datasets.images import leaves_folder
from eca_mmdet.datasets.rules.rule import (
    Content,
    Fix,
    Phase,
    Rule,
    annotations_with,
    images_with,
)


def _repeated(entries: list[Entry], key: str) -> list[Entry]:
    """Return the entries whose value came before."""
    if len({entry[key] for entry in entries}) == len(entries):
        return []
    # Written from the last to the first, so that the first of a value stays.
    first = {entry[key]: at for at, entry in reversed([*enumerate(entries)])}
    return [entry for at, entry in enumerate(entries) if first[entry[key]] != at]


def _malformed(key: str, kind: str) -> Rule[Content]:
    def count(content: Content) -> None:
        number = len(content.malformed.get(key, ()))
        content.done[f'malformed {kind} entries dropped'] += number

    return Rule.of(
        f'malformed-{kind}',
        lambda content: content.malformed.get(key, []),
        # A repair begins with the others.
        Fix('a number as name becomes text; otherwise dropped', Phase.ENTRIES, count),
        lambda at: f'{key}[{at}]',
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


def _make_ids_whole(content: Content) -> None:
    _make_whole(content, content.images, 'image')
    _make_whole(content, content.categories, 'category')


def _make_whole(content: Content, entries: list[Entry], kind: str) -> None:
    """Make the ids of images or categories whole numbers, where they must be.

    Text ids of images stay if all are text and so are the references; mmdet reads them.
    """
    key = f'{kind}_id'
    ids = list(dict.fromkeys(entry['id'] for entry in entries))
    types = {*map(type, ids), *(type(one[key]) for one in content.annotations)}
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
    for rows, name in ((entries, 'id'), (content.annotations, key)):
        for row in rows:
            value = row[name]
            number = new[value] if value in new else forms.get(whole(value))
            number = named.get(value) if number is None else number
            if type(value) is not int or number != value:  # 1.0 equals 1
                row[name] = number
                content.done[what] += 1


_numbered = annotations_with(lambda one: type(one.get('id')) in (int, float, str))


def _renumber(content: Content) -> None:
    """Number annotations from 1 if any id is 0, missing, used twice or not whole."""
    ids = [one.get('id') for one in content.annotations]
    wholes = [whole(value) for value in ids]
    good = 0 not in wholes and len({*wholes}) == len(wholes) and None not in wholes
    text = sum(type(value) is str for value in ids)
    if good and text in (0, len(ids)):
        return
    for number, one in enumerate(content.annotations, 1):
        one['id'] = number
    content.done['annotation ids renumbered from 1'] += len(ids)


def _merge_images(content: Content) -> None:
    """Keep the first of equal images."""
    kept = defaultdict[Any, list[Entry]](list)
    distinct = []
    for image in content.images:
        if image not in kept[image['id']]:
            kept[image['id']].append(image)
            distinct.append(image)
    content.done['repeated image entries dropped'] += len(content.images) - len(
        distinct
    )
    content.images = distinct


def _lost(code: str, kind: str) -> Rule[Content]:
    """Return the rule of references to nothing; 'id-type' reports another form."""
    key = f'{kind}_id'

    def find(content: Content) -> list[Entry]:
        known = content.derive(_known_ids)[key]
        unknown = [one for one in content.annotations if one[key] not in known]
        return [one for one in unknown if other_form(one[key]) not in known]

    def drop(content: Content) -> None:
        content.drop(find(content), f'annotations of no {kind} dropped')

    return Rule.of(
        code,
        find,
        Fix('read if it is the name, otherwise dropped', Phase.REFERENCES, drop),
        lambda one: f'{entry_name(one)} of {kind} {one[key]!r}',
    )


MERGED = 'equal entries are merged; of different ones you must decide'

_MAKE_WHOLE = Fix(
    'ids become whole numbers, and what refers to them follows',
    Phase.IDS,
    _make_ids_whole,
)
_RENUMBER = Fix('ids renumbered from 1', Phase.NUMBERS, _renumber)

RULES: tuple[Rule[Content], ...] = (
    _malformed('images', 'image'),
    _malformed('categories', 'category'),
    _malformed('annotations', 'annotation'),
    Rule.of('id-type', _wrong_type, _MAKE_WHOLE),
    Rule.of(
        'category-id-form',
        lambda content: [
            repr(one['id']) for one in content.categories if type(one['id']) is not int
        ],
        _MAKE_WHOLE,
    ),
    Rule.of(
        'zero-annotation-id',
        lambda content: [
            one
            for one in content.derive(_numbered)
            if one['id'] == 0 or whole(one['id']) == 0
        ],
        _RENUMBER,
    ),
    Rule.of(
        'duplicate-annotation-id',
        lambda content: _repeated(content.derive(_numbered), 'id'),
        _RENUMBER,
    ),
    Rule.of(
        'duplicate-image-id',
        lambda content: _repeated(content.images, 'id'),
        Fix(MERGED, Phase.DUPLICATES, _merge_images),
    ),
    _lost('orphan-annotation', 'image'),
    _lost('unknown-category', 'category'),
)


def _repeated_names(content: Content) -> list[Entry]:
    # The same entry twice is a repeated id already.
    distinct = {image['id']: image for image in reversed(content.images)}
    return _repeated(list(distinct.values())[::-1], 'file_name')


def _among(content: Content, names: dict[str, str]) -> list[tuple[str, str]]:
    """Return the images whose file names are keys, with their values."""
    return [
        (image_name(image), names[image['file_name']])
        for image in content.images
        if image['file_name'] in names
    ]


def _other_size(content: Content) -> list[str]:
    """Name the images whose size is not that of their file."""
    found = []
    for image in content.images:
        actual = content.files.sizes.get(image['file_name'])
        stated = actual and size_of(image)
        if actual and stated and actual != stated:
            is_not = f'{actual[0]} x {actual[1]}, not {stated[0]} x {stated[1]}'
            found.append(f'{image_name(image)} is {is_not}')
    return found


def _drop_images(content: Content) -> None:
    """Correct file names, and drop images without a usable file, with annotations."""
    for image in content.images:
        if (moved := content.files.moved.get(image['file_name'])) is not None:
            image['file_name'] = moved
            content.done['file names corrected'] += 1
    unusable = content.files.unusable
    gone = [image for image in content.images if image['file_name'] in unusable]
    content.images = [i for i in content.images if i['file_name'] not in unusable]
    content.done['images without a usable file dropped'] += len(gone)
    ids = {image['id'] for image in gone} - {image['id'] for image in content.images}
    content.drop(
        (one for one in content.annotations if one['image_id'] in ids),
        'annotations of dropped images dropped',
    )


def _read_sizes(content: Content) -> None:
    for image in content.images:
        sides = {key: read_number(image.get(key)) for key in ('width', 'height')}
        if size_of(image) is None and size_of(sides) is not None:
            image |= sides
            content.done['image sizes read from another form'] += 1


def _correct_sizes(content: Content) -> None:
    for image in content.images:
        size = content.files.sizes.get(image['file_name'])
        if size and size != size_of(image):
            image['width'], image['height'] = size
            content.done['image sizes corrected'] += 1


IMAGE_RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'image-size-missing',
        images_with(lambda image: size_of(image) is None),
        Fix(
            'read if it is text; read from the image, with --images',
            Phase.VALUES,
            _read_sizes,
        ),
    ),
    Rule.of(
        'file-name-outside',
        images_with(lambda image: leaves_folder(image['file_name'])),
        Fix(
            'replaced by the only image of its name in the folder, with --images',
            Phase.FILES,
            _drop_images,
        ),
    ),
    Rule.of('duplicate-file-name', _repeated_names),
)

FILE_RULES: tuple[Rule[Content], ...] = (
    Rule.of(
        'missing-image',
        lambda content: _among(content, content.files.missing),
        Fix(
            'replaced by the only image in the folder that it can mean (another path, '
            'case or ending); if none is similar, the entry is dropped, with its '
            'annotations',
            Phase.FILES,
            _drop_images,
        ),
        lambda item: item[0] + f', there is {item[1]!r}' * bool(item[1]),
    ),
    Rule.of(
        'damaged-image',
        lambda content: _among(content, content.files.damaged),
        Fix('the entry is dropped, with its annotations', Phase.FILES, _drop_images),
        ': '.join,
    ),
    Rule.of(
        'image-size',
        _other_size,
        Fix(
            'width and height corrected; look whether the boxes fit',
            Phase.SIZES,
            _correct_sizes,
        ),
    ),
)


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


CATEGORY_RULES: tuple[Rule[Content], ...] = (
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
