"""Malformed entries, ids and references; sizes and files of images."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    entry_name,
    image_name,
    other_form,
    size_of,
    whole,
)
from eca_mmdet.datasets.images import leaves_folder
from eca_mmdet.datasets.readings import read_number
from eca_mmdet.datasets.rules.rule import (
    Content,
    Fix,
    Phase,
    Repair,
    Rule,
    Severity,
    images_with,
)


def _repeated(entries: list[Entry], key: str) -> list[Entry]:
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
    kept = defaultdict[Any, list[Entry]](list)
    distinct = []
    for image in repair.images:
        if image not in kept[image['id']]:
            kept[image['id']].append(image)
            distinct.append(image)
    repair.done['repeated image entries dropped'] += len(repair.images) - len(distinct)
    repair.images = distinct


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
        describe=lambda one: f'{entry_name(one)} of {kind} {one[key]!r}',
        fix=Fix.drop(
            'read if it is the name, otherwise dropped',
            Phase.REFERENCES,
            find,
            f'annotations of no {kind} dropped',
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
        fix=_RENUMBER,
    ),
    Rule(
        code='duplicate-annotation-id',
        severity='error',
        message='annotation id used before: mmdet refuses the file, pycocotools hides '
        'an object',
        find=lambda content: _repeated(content.derive(_numbered), 'id'),
        fix=_RENUMBER,
    ),
    Rule(
        code='duplicate-image-id',
        severity='error',
        message='image id used before: of the images that share it only the last is '
        'seen, with the objects of all',
        find=lambda content: _repeated(content.images, 'id'),
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


def _repeated_names(content: Content) -> list[Entry]:
    # The same entry twice is a repeated id already.
    distinct = {image['id']: image for image in reversed(content.images)}
    return _repeated(list(distinct.values())[::-1], 'file_name')


def _among(content: Content, names: dict[str, str]) -> list[tuple[Entry, str]]:
    """Return the images whose file names are keys, with their values."""
    named = [(image, image['file_name']) for image in content.images]
    return [(image, names[name]) for image, name in named if name in names]


def _describe_missing(item: tuple[Entry, str]) -> str:
    image, near = item
    return f'{image_name(image)}, there is {near!r}' if near else image_name(image)


def _other_size(content: Content) -> list[tuple[str, Size, Size]]:
    """Return name, size of the file and stated size of images where they differ."""
    seen = content.files.sizes if content.files else {}
    return [
        (image_name(image), actual, stated)
        for image in content.images
        if (actual := seen.get(image['file_name'])) is not None
        and (stated := size_of(image)) is not None
        and stated != actual
    ]


def _describe_size(item: tuple[str, Size, Size]) -> str:
    name, actual, stated = item
    return f'{name} is {actual[0]} x {actual[1]}, not {stated[0]} x {stated[1]}'


def _drop_images(repair: Repair) -> None:
    """Correct file names, and drop images without a usable file, with annotations."""
    if repair.files is None:
        return
    for image in repair.images:
        if (moved := repair.files.moved.get(image['file_name'])) is not None:
            image['file_name'] = moved
            repair.done['file names corrected'] += 1
    unusable = repair.files.unusable
    gone = [image for image in repair.images if image['file_name'] in unusable]
    if not gone:
        return
    repair.images = [i for i in repair.images if i['file_name'] not in unusable]
    repair.done['images without a usable file dropped'] += len(gone)
    ids = {image['id'] for image in gone} - {image['id'] for image in repair.images}
    repair.drop(
        (one for one in repair.annotations if one['image_id'] in ids),
        'annotations of dropped images dropped',
    )


def _read_sizes(repair: Repair) -> None:
    for image in repair.images:
        sides = {key: read_number(image.get(key)) for key in ('width', 'height')}
        if size_of(image) is None and size_of(sides) is not None:
            image |= sides
            repair.done['image sizes read from another form'] += 1


def _correct_sizes(repair: Repair) -> None:
    sizes = repair.files.sizes if repair.files else {}
    for image in repair.images:
        size = sizes.get(image['file_name'])
        if size and size != size_of(image):
            image['width'], image['height'] = size
            repair.done['image sizes corrected'] += 1


IMAGE_RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='image-size-missing',
        severity='error',
        message="image without 'width' and 'height' as whole numbers above 0",
        find=images_with(lambda image: size_of(image) is None),
        fix=Fix(
            'read if it is text; read from the image, with --images',
            Phase.VALUES,
            _read_sizes,
        ),
    ),
    Rule(
        code='file-name-outside',
        severity='error',
        message='file name that leaves the image folder (absolute or with ..) or has a '
        'NUL byte: check-data does not open it',
        find=images_with(lambda image: leaves_folder(image['file_name'])),
        fix=Fix(
            'replaced by the only image of its name in the folder, with --images',
            Phase.FILES,
            _drop_images,
        ),
    ),
    Rule(
        code='duplicate-file-name',
        severity='warning',
        message="file listed before under another id: each entry lacks the other's "
        'objects',
        find=_repeated_names,
    ),
)

_DROP = Fix('the entry is dropped, with its annotations', Phase.FILES, _drop_images)
_RENAME = Fix(
    'replaced by the only image in the folder that it can mean (another path, case or '
    'ending); if none is similar, the entry is dropped, with its annotations',
    Phase.FILES,
    _drop_images,
)

FILE_RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='missing-image',
        severity='error',
        message='image file that is not there',
        find=lambda content: (
            _among(content, content.files.missing) if content.files else []
        ),
        describe=_describe_missing,
        fix=_RENAME,
    ),
    Rule(
        code='damaged-image',
        severity='error',
        message='image file that is cut off or cannot be read',
        find=lambda content: (
            _among(content, content.files.damaged) if content.files else []
        ),
        describe=lambda item: f'{image_name(item[0])}: {item[1]}',
        fix=_DROP,
    ),
    Rule(
        code='image-size',
        severity='error',
        message='image of another size than the file says (as mmdet sees it: turned by '
        'EXIF)',
        find=_other_size,
        describe=_describe_size,
        fix=Fix(
            'width and height corrected; look whether the boxes fit',
            Phase.SIZES,
            _correct_sizes,
        ),
    ),
)
