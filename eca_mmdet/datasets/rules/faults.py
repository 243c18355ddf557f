"""The faults that annotation files have: what each means and what mends it.

An 'error' makes training or AP crash or be wrong under mmdet's CocoDataset and
CocoMetric, pycocotools, or this package. A 'warning' works, but not as the file's
author thinks. A 'note' is no fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

Severity = Literal['error', 'warning', 'note']
EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of fault in one file.

    Attributes:
        code: key of ``KINDS``.
        severity: 'error', 'warning' or 'note'.
        count: how many entries have it.
        message: what it is and what follows from it.
        examples: the first few; text of the file in them is not yet escaped.
        fix: what ``--fix`` does about it; None if a person must decide.
    """

    code: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()
    fix: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)

    def line(self) -> str:
        """Return everything in one line, without the severity."""
        more = ', ...' if self.count > len(self.examples) else ''
        shown = f' ({", ".join(self.examples)}{more})' if self.examples else ''
        fix = f' --fix: {self.fix}.' if self.fix else ''
        return f'{self.count} x {self.code}: {self.message}{shown}.{fix}'


@dataclasses.dataclass(frozen=True)
class _Kind:
    severity: Severity
    message: str
    fix: str | None = None


_RENUMBERED = 'ids renumbered from 1'
_DROPPED = 'dropped'
_IMAGE_DROPPED = 'the entry is dropped, with its annotations'

KINDS: dict[str, _Kind] = {
    'byte-order-mark': _Kind(
        'error',
        'the file is not plain UTF-8 (a byte-order mark or UTF-16), which '
        'pycocotools does not read',
        'written as UTF-8',
    ),
    # Entries and ids
    'malformed-image': _Kind(
        'error', "image entry without an 'id' or a 'file_name'", _DROPPED
    ),
    'malformed-category': _Kind(
        'error', "category entry without an 'id' or a 'name'", _DROPPED
    ),
    'malformed-annotation': _Kind(
        'error', "annotation without an 'image_id' or a 'category_id'", _DROPPED
    ),
    'id-type': _Kind(
        'error',
        'id that is missing, fractional, or text where others are numbers',
        'ids become whole numbers, and what refers to them follows',
    ),
    'category-id-form': _Kind(
        'warning',
        "category id written as text or as 1.0: mmdet's classwise=True fails on it",
        'ids become whole numbers, and what refers to them follows',
    ),
    'zero-annotation-id': _Kind(
        'error',
        'annotation id 0: pycocotools counts the object as never found',
        _RENUMBERED,
    ),
    'duplicate-annotation-id': _Kind(
        'error',
        'annotation id used before: mmdet refuses the file, pycocotools hides an '
        'object',
        _RENUMBERED,
    ),
    'duplicate-image-id': _Kind(
        'error',
        'image id used before: of the images that share it only the last is seen, '
        'with the objects of all',
        'equal entries are merged; of different ones you must decide',
    ),
    'orphan-annotation': _Kind(
        'warning', 'annotation of an image that is not in the file', _DROPPED
    ),
    'unknown-category': _Kind(
        'error',
        'annotation of a category that is not in the file: mmdet trains the object '
        'as background',
        _DROPPED,
    ),
    # Categories and classes
    'duplicate-category-id': _Kind(
        'error',
        'category id used before: labels exceed the number of classes',
        'equal entries are merged; of different ones you must decide',
    ),
    'duplicate-category-name': _Kind(
        'error',
        'category name used before: labels exceed the number of classes',
        'merged into the first of the name',
    ),
    'similar-category-names': _Kind(
        'warning',
        'category names that differ only by case or spaces are separate classes',
    ),
    'classes-string': _Kind(
        'error',
        'classes is one string, which mmdet takes for a file name or part of a name. '
        "Give separate words; in a config ('person',) with a comma",
    ),
    'unknown-class': _Kind(
        'error',
        'class that is not in the file: mmdet leaves it out and shifts the labels '
        'of the others',
    ),
    'class-order': _Kind(
        'error',
        "classes are not in the order of the file's categories, by which mmdet "
        'numbers labels: objects get the names of others',
    ),
    'class-without-objects': _Kind('note', 'class without an annotation'),
    # Objects
    'no-annotations': _Kind(
        'note', 'no annotations: image information alone, good for testing'
    ),
    'missing-iscrowd': _Kind(
        'error',
        "annotation without 'iscrowd' 0 or 1: pycocotools fails at the first "
        'evaluation',
        'set to 0',
    ),
    'missing-area': _Kind(
        'error',
        "annotation without 'area' as a number: mmdet fails on it",
        'computed from the mask, or from the box where there is none',
    ),
    'zero-area': _Kind(
        'warning',
        'area of 0 or less: mmdet leaves the object out of training',
        'computed from the mask, or from the box where there is none',
    ),
    'missing-bbox': _Kind(
        'error',
        "annotation without 'bbox': mmdet fails on it",
        'computed from the mask; dropped where there is none',
    ),
    'malformed-bbox': _Kind(
        'error',
        'bbox that is not four finite numbers x, y, width, height',
        'computed from the mask; dropped where there is none',
    ),
    'empty-bbox': _Kind(
        'warning',
        'bbox of no width or height: not trained on, and in AP an object that '
        'nobody can find',
        _DROPPED,
    ),
    'bbox-outside': _Kind(
        'warning',
        'bbox outside its image: not trained on, and in AP an object that nobody '
        'can find',
        _DROPPED,
    ),
    'bbox-over-edge': _Kind(
        'warning',
        'bbox more than 1 px over the edge of its image (bbox is x, y, width, '
        'height, not two corners)',
        'clipped to the image',
    ),
    'malformed-segmentation': _Kind(
        'error',
        'segmentation that is neither lists of finite numbers nor an RLE with '
        "'size' and 'counts'",
        'removed; dropped with the annotation in a data set of masks',
    ),
    'short-polygon': _Kind(
        'error',
        'polygon of fewer than 3 points or an odd number of coordinates: mmdet passes '
        'it over, mask AP can fail on it',
        'removed; an annotation left without a mask is dropped in a data set of masks',
    ),
    'rle-size': _Kind(
        'error',
        'RLE mask of another size than its image: training on masks fails, and it '
        'matches nothing',
    ),
    'missing-segmentation': _Kind(
        'warning', 'annotation without a mask beside others that have one'
    ),
    # Images
    'image-size-missing': _Kind(
        'error',
        "image without 'width' and 'height' as whole numbers above 0",
        'read from the image, with --images',
    ),
    'duplicate-file-name': _Kind(
        'warning',
        "file listed before under another id: each entry lacks the other's objects",
    ),
    'missing-image': _Kind('error', 'image file that is not there', _IMAGE_DROPPED),
    'damaged-image': _Kind(
        'error', 'image file that is cut off or cannot be read', _IMAGE_DROPPED
    ),
    'image-size': _Kind(
        'error',
        'image of another size than the file says (as mmdet sees it: turned by EXIF)',
        'width and height corrected; look whether the boxes fit',
    ),
    # Two files
    'split-missing-category': _Kind(
        'error',
        'category of the training file that the validation file lacks: labels shift '
        'and AP is wrong',
    ),
    'split-extra-category': _Kind(
        'warning',
        'category of the validation file that the training file lacks: never learnt',
    ),
    'split-category-spelling': _Kind(
        'error',
        'category spelt differently in the two files, by case or spaces alone',
    ),
    'split-category-order': _Kind(
        'error',
        'the two files list their categories in another order, by which mmdet '
        'numbers labels: AP is wrong',
    ),
    'split-leak': _Kind('warning', 'image in both training and validation'),
    'split-same-file-name': _Kind(
        'warning',
        'file name in both training and validation; with --images and --val-images '
        'the files themselves are compared',
    ),
}


def found(
    code: str,
    items: Sequence[Any],
    name: Callable[[Any], str] = str,
    severity: Severity | None = None,
) -> list[Fault]:
    """Return the fault of these entries in a list; an empty one if there are none.

    Args:
        code: key of ``KINDS``.
        items: the entries that have the fault.
        name: how to call one as an example.
        severity: another one than the kind's.
    """
    if not items:
        return []
    kind = KINDS[code]
    examples = tuple(dict.fromkeys(name(item) for item in items[:EXAMPLES]))
    fault = Fault(
        code, severity or kind.severity, len(items), kind.message, examples, kind.fix
    )
    return [fault]
