"""Rules, the faults that they report, and the content that they check or repair."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    entry_name,
    is_annotation,
    is_category,
    is_image,
    size_of,
)
from eca_mmdet.datasets.images import ImageFiles

T = TypeVar('T')

Severity = Literal['error', 'warning', 'note']
"""An 'error' makes training or AP crash or be wrong under mmdet's CocoDataset and
CocoMetric, pycocotools, or this package. A 'warning' works, but not as the author of
the file thinks. A 'note' is no fault."""

EXAMPLES = 3


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one file.

    Attributes:
        count: number of entries that have it.
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
        return asdict(self)

    def line(self) -> str:
        """Return everything in one line, without the severity."""
        more = ', ...' if self.count > len(self.examples) else ''
        shown = f' ({", ".join(self.examples)}{more})' if self.examples else ''
        fix = f' --fix: {self.fix}.' if self.fix else ''
        return f'{self.count} x {self.code}: {self.message}{shown}.{fix}'


class Phase(IntEnum):
    """Order of repairs: each relies on those of the phases before it."""

    ENTRIES = 1  # only usable entries are left
    VALUES = 2  # what is written in another form is read; flags are 0 or 1
    IDS = 3  # ids of images and categories are whole, references agree with them
    FILES = 4  # every image has a file
    SIZES = 5  # every image has its size
    DUPLICATES = 6  # equal images and categories are one, with the right size
    REFERENCES = 7  # every annotation has its image and category
    SCALES = 8  # coordinates are in pixels
    MASKS = 9  # usable, or gone; annotations that need one have one
    BOXES = 10  # every annotation has a box, from its mask if need be
    EXTENTS = 11  # boxes are inside their images
    AREAS = 12  # every annotation has its area, from its mask or box
    NUMBERS = 13  # annotation ids, when it is known which annotations stay


class Fix(NamedTuple):
    """What is done about a fault; rules may share ``apply``."""

    summary: str
    phase: Phase
    apply: Callable[[Content], None]


MESSAGES: dict[Severity, dict[str, str]] = {
    'error': {
        'malformed-image': "image entry without an 'id' or a 'file_name'",
        'malformed-category': "category entry without an 'id' or a 'name'",
        'malformed-annotation': "annotation without an 'image_id' or a 'category_id'",
        'id-type': 'id that is missing, fractional, or text where others are numbers',
        'zero-annotation-id': 'annotation id 0: pycocotools counts the object as never '
        'found',
        'duplicate-annotation-id': 'annotation id used before: mmdet refuses the file, '
        'pycocotools hides an object',
        'duplicate-image-id': 'image id used before: of the images that share it only '
        'the last is seen, with the objects of all',
        'unknown-category': 'annotation of a category that is not in the file: mmdet '
        'trains the object as background',
        'duplicate-category-id': 'category id used before: labels exceed the number of '
        'classes',
        'duplicate-category-name': 'category name used before: labels exceed the '
        'number of classes',
        'classes-string': 'classes is one string, which mmdet takes for a file name or '
        "part of a name. Give separate words; in a config ('person',) with a comma",
        'unknown-class': 'class that is not in the file: mmdet leaves it out and '
        'shifts the labels of the others',
        'class-order': "classes are not in the order of the file's categories, by "
        'which mmdet numbers labels: objects get the names of others',
        'image-size-missing': "image without 'width' and 'height' as whole numbers "
        'above 0',
        'file-name-outside': 'file name that leaves the image folder (absolute or with '
        '..) or has a NUL byte: data check does not open it',
        'missing-iscrowd': "annotation without 'iscrowd' 0 or 1: pycocotools fails at "
        "the first evaluation, and to mmdet any text is 1, '0' too",
        'missing-area': "annotation without 'area' as a number: mmdet fails on it",
        'missing-bbox': "annotation without 'bbox': mmdet fails on it",
        'malformed-bbox': 'bbox that is not four finite numbers x, y, width, height',
        'normalised-bbox': 'bbox in 0-1, where pixels are expected: the coordinates '
        'look normalised; mmdet leaves boxes under 1 px out of training, and AP is '
        'wrong',
        'malformed-segmentation': 'segmentation that is neither lists of finite '
        "numbers nor an RLE with 'size' and 'counts'",
        'short-polygon': 'polygon of fewer than 3 points or an odd number of '
        'coordinates: mmdet passes it over, mask AP can fail on it',
        'rle-size': 'RLE mask of another size than its image: training on masks fails, '
        'and it matches nothing',
        'nothing-to-train-on': 'every annotation is left out of training, for the '
        'faults named here',
        'missing-image': 'image file that is not there',
        'damaged-image': 'image file that is cut off or cannot be read',
        'image-size': 'image of another size than the file says (as mmdet sees it: '
        'turned by EXIF)',
        'split-category-spelling': 'category spelt differently in the two files, by '
        'case or spaces alone',
        'split-missing-category': 'category of the training file that the validation '
        'file lacks: labels shift and AP is wrong',
        'split-category-order': 'the two files list their categories in another order, '
        'by which mmdet numbers labels: AP is wrong',
    },
    'warning': {
        'category-id-form': "category id written as text or as 1.0: mmdet's "
        'classwise=True fails on it',
        'orphan-annotation': 'annotation of an image that is not in the file',
        'similar-category-names': 'category names that differ only by case or spaces '
        'are separate classes',
        'duplicate-file-name': 'file listed before under another id: each entry lacks '
        "the other's objects",
        'zero-area': 'area of 0 or less: mmdet leaves the object out of training',
        'empty-bbox': 'bbox of no width or height: not trained on, and in AP an object '
        'that cannot be found',
        'bbox-outside': 'bbox outside its image: not trained on, and in AP an object '
        'that cannot be found',
        'thin-bbox': 'bbox of less than 1 px in width or height: mmdet leaves the '
        'object out of training',
        'bbox-over-edge': 'bbox more than 1 px over the edge of its image (bbox is x, '
        'y, width, height, not two corners)',
        'mask-without-pixel': 'mask that has no pixel in its image: nothing is learnt '
        'from it, and in mask AP an object that cannot be found',
        'mask-off-bbox': 'mask far from its bbox (IoU of the boxes of both under 0.2): '
        'one of them is wrong',
        'missing-segmentation': 'annotation without a mask beside others that have one',
        'ignored-object': "annotation with 'ignore': mmdet leaves it out of training "
        "(any text, '0' too), and COCO's AP counts it all the same",
        'small-image': 'image with a side shorter than filter_cfg.min_size, 32 px in '
        "mmdet's configs: left out of training with its objects (eca-mmdet init sets "
        'min_size)',
        'class-not-trained': 'class of which every annotation is left out of training',
        'split-extra-category': 'category of the validation file that the training '
        'file lacks: never learnt',
        'split-same-file-name': 'file name in both training and validation; with '
        '--images and --val-images the files themselves are compared',
        'split-leak': 'image in both training and validation',
    },
    'note': {
        'crowd-region': "annotation with 'iscrowd' 1: not trained on, and not counted "
        'in AP',
        'no-annotations': 'no annotations: image information alone, good for testing',
        'class-without-objects': 'class without an annotation',
    },
}
"""What each fault of an annotation file is and what follows from it, by its code."""


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[T]):
    """One kind of fault: what it is, how it is found, how it is repaired.

    Attributes:
        find: returns the items that have the fault.
        describe: names an item as an example.
        fix: its repair; None if a person must decide.
    """

    code: str
    severity: Severity
    message: str
    find: Callable[[T], Sequence[Any]]
    describe: Callable[[Any], str] = entry_name
    fix: Fix | None = None

    @classmethod
    def of(
        cls,
        code: str,
        find: Callable[[T], Sequence[Any]],
        fix: Fix | None = None,
        describe: Callable[[Any], str] = entry_name,
    ) -> Rule[T]:
        """Return the rule of a code in :data:`MESSAGES`."""
        severity = next(key for key, codes in MESSAGES.items() if code in codes)
        return cls(
            code=code,
            severity=severity,
            message=MESSAGES[severity][code],
            find=find,
            describe=describe,
            fix=fix,
        )

    def check(self, content: T) -> list[Fault]:
        """Return the fault as a list; an empty one if no item has it."""
        return self.faults(self.find(content))

    def faults(self, items: Sequence[Any]) -> list[Fault]:
        """Return the fault of some items as a list."""
        if not items:
            return []
        examples = dict.fromkeys(self.describe(item) for item in items[:EXAMPLES])
        fix = self.fix and self.fix.summary
        return [
            Fault(self.code, self.severity, len(items), self.message, (*examples,), fix)
        ]


_USABLE: dict[str, Callable[[Any], bool]] = {
    'images': is_image,
    'categories': is_category,
    'annotations': is_annotation,
}


@dataclass(eq=False)
class Content:
    """Usable entries of an annotation file in its order, and what is known besides.

    Attributes:
        images: entries with an id and a file name.
        categories: entries with an id and a name.
        annotations: with ids of an image and a category; their own may be bad.
        malformed: positions of all other entries, by key.
        classes: class names of a config; None if there is nothing to compare.
        files: what is known of the image files; nothing if they were not looked for.
        min_side: images with a shorter side are left out of training; mmdet's configs
            have 32 as ``filter_cfg.min_size``.
        others: number of the annotations without a fault that are not among those
            here, by category id and the shorter side of their image in pixels.
        unmasked: number of all annotations without a mask; None if all are here.
        done: how often each repair was made, by what it says to the user.
    """

    images: list[Entry] = field(default_factory=list)
    categories: list[Entry] = field(default_factory=list)
    annotations: list[Entry] = field(default_factory=list)
    malformed: dict[str, list[int]] = field(default_factory=dict)
    classes: Sequence[str] | str | None = None
    files: ImageFiles = field(default_factory=lambda: ImageFiles({}))
    min_side: int = 32
    others: Counter[tuple[Any, int]] = field(default_factory=Counter)
    unmasked: int | None = None
    done: Counter[str] = field(default_factory=Counter)
    _derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, content: Mapping[str, Any], classes: Sequence[str] | str | None = None
    ) -> Content:
        """Sort the entries of a file."""
        kept: dict[str, list[Entry]] = {key: [] for key in _USABLE}
        malformed = defaultdict[str, list[int]](list)
        for key, is_usable in _USABLE.items():
            for at, entry in enumerate(content.get(key, ())):
                if is_usable(entry):
                    kept[key].append(entry)
                else:
                    malformed[key].append(at)
        images, categories, annotations = kept.values()
        return cls(images, categories, annotations, malformed, classes)

    @property
    def sizes(self) -> dict[Any, Size | None]:
        """Width and height by image id."""
        return self.derive(_sizes)

    def derive(self, function: Callable[[Content], T]) -> T:
        """Return ``function(self)``, which several rules need, computed once."""
        if function not in self._derived:
            self._derived[function] = function(self)
        result: T = self._derived[function]
        return result

    def forget(self) -> None:
        """Compute anew what :meth:`derive` returns, for entries have changed."""
        self._derived.clear()

    def drop(self, unwanted: Iterable[Entry], what: str) -> None:
        """Drop annotations, and count them as ``what``."""
        gone = set(map(id, unwanted))
        self.done[what] += len(gone)
        if gone:
            self.annotations = [one for one in self.annotations if id(one) not in gone]


def _sizes(content: Content) -> dict[Any, Size | None]:
    return {image['id']: size_of(image) for image in content.images}


def images_with(fault: Callable[[Entry], Any]) -> Callable[[Content], list[Entry]]:
    """Return a rule's ``find`` that looks at each image."""
    return lambda content: [image for image in content.images if fault(image)]


def annotations_with(
    fault: Callable[[Entry], Any],
) -> Callable[[Content], list[Entry]]:
    """Return a rule's ``find`` that looks at each annotation."""
    return lambda content: [one for one in content.annotations if fault(one)]
