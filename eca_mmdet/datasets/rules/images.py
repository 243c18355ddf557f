"""Image entries, and the files that they name."""

from __future__ import annotations

from eca_mmdet.datasets.entries import Entry, Size, image_name, size_of
from eca_mmdet.datasets.images import leaves_folder
from eca_mmdet.datasets.readings import read_number
from eca_mmdet.datasets.rules.ids import repeated
from eca_mmdet.datasets.rules.rule import Content, Fix, Phase, Repair, Rule


def _repeated_names(content: Content) -> list[Entry]:
    # The same entry twice is a repeated id already.
    distinct = {image['id']: image for image in reversed(content.images)}
    return repeated(list(distinct.values())[::-1], 'file_name')


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


RULES: tuple[Rule[Content], ...] = (
    Rule(
        code='image-size-missing',
        severity='error',
        message="image without 'width' and 'height' as whole numbers above 0",
        find=lambda content: [
            image for image in content.images if size_of(image) is None
        ],
        describe=image_name,
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
        find=lambda content: [
            image for image in content.images if leaves_folder(image['file_name'])
        ],
        describe=image_name,
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
        describe=image_name,
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
