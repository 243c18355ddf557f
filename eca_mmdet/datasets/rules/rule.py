"""Rules, the faults that they report, and the content that they check or repair."""

from __future__ import annotations

from collections import Counter
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
    apply: Callable[[Repair], None]

    @classmethod
    def drop(
        cls, summary: str, phase: Phase, find: Callable[[Content], Any], what: str
    ) -> Fix:
        """Drop the annotations found, and count them as ``what``."""
        return cls(
            summary, phase, lambda repair: repair.drop(find(repair.view()), what)
        )


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[T]):
    """One kind of fault: what it is, how it is found, how it is repaired.

    Attributes:
        find: returns the items that have the fault.
        describe: names an item as an example.
        note_if: whether the fault is only a note in some content.
        note: its message then, if another.
        fix: its repair; None if a person must decide.
    """

    code: str
    severity: Severity
    message: str
    find: Callable[[T], Sequence[Any]]
    describe: Callable[[Any], str] = entry_name
    note_if: Callable[[T], bool] = lambda content: False
    note: str = ''
    fix: Fix | None = None

    def check(self, content: T) -> list[Fault]:
        """Return the fault as a list; an empty one if no item has it."""
        items = self.find(content)
        if not items:
            return []
        examples = dict.fromkeys(self.describe(item) for item in items[:EXAMPLES])
        noted = self.note_if(content)
        return [
            Fault(
                self.code,
                'note' if noted else self.severity,
                len(items),
                (noted and self.note) or self.message,
                tuple(examples),
                self.fix and self.fix.summary,
            )
        ]


@dataclass(eq=False)
class Content:
    """Usable entries of an annotation file in its order, and what is known besides.

    Attributes:
        images: entries with an id and a file name.
        categories: entries with an id and a name.
        annotations: with ids of an image and a category; their own may be bad.
        malformed: positions of all other entries, by key.
        classes: class names of a config; None if there is nothing to compare.
        files: what is known of the image files; None if they were not looked for.
        min_side: images with a shorter side are left out of training; mmdet's configs
            have 32 as ``filter_cfg.min_size``.
        others: number of the annotations without a fault that are not among those
            here, by category id and the shorter side of their image in pixels.
        unmasked: number of all annotations without a mask; None if all are here.
    """

    images: list[Entry] = field(default_factory=list)
    categories: list[Entry] = field(default_factory=list)
    annotations: list[Entry] = field(default_factory=list)
    malformed: dict[str, list[int]] = field(default_factory=dict)
    classes: Sequence[str] | str | None = None
    files: ImageFiles | None = None
    min_side: int = 32
    others: Counter[tuple[Any, int]] = field(default_factory=Counter)
    unmasked: int | None = None
    _derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, content: Mapping[str, Any], classes: Sequence[str] | str | None = None
    ) -> Content:
        """Sort the entries of a file."""
        sorted_content = cls(classes=classes)
        usable: tuple[tuple[str, list[Entry], Callable[[Any], bool]], ...] = (
            ('images', sorted_content.images, is_image),
            ('categories', sorted_content.categories, is_category),
            ('annotations', sorted_content.annotations, is_annotation),
        )
        for key, kept, is_usable in usable:
            for at, entry in enumerate(content.get(key, ())):
                if is_usable(entry):
                    kept.append(entry)
                else:
                    sorted_content.malformed.setdefault(key, []).append(at)
        return sorted_content

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


def images_with(fault: Callable[[Entry], Any]) -> Callable[[Content], list[Entry]]:
    """Return a rule's ``find`` that looks at each image."""
    return lambda content: [image for image in content.images if fault(image)]


def annotations_with(
    fault: Callable[[Entry], Any],
) -> Callable[[Content], list[Entry]]:
    """Return a rule's ``find`` that looks at each annotation."""
    return lambda content: [one for one in content.annotations if fault(one)]


def _sizes(content: Content) -> dict[Any, Size | None]:
    return {image['id']: size_of(image) for image in content.images}


class Repair:
    """Copies of the entries of an annotation file, changed in place or replaced.

    ``done`` counts how often each repair was made, by what it says to the user.
    """

    def __init__(self, content: Mapping[str, Any], files: ImageFiles | None) -> None:
        usable = Content.of(content)
        self.malformed = usable.malformed
        self.images = [*map(dict, usable.images)]
        self.categories = [*map(dict, usable.categories)]
        self.annotations = [*map(dict, usable.annotations)]
        self.files = files
        self.done: Counter[str] = Counter()

    def view(self) -> Content:
        """Return the present entries as the rules look at them."""
        return Content(self.images, self.categories, self.annotations, files=self.files)

    def drop(self, unwanted: Iterable[Entry], what: str) -> None:
        """Drop annotations, and count them as ``what``."""
        gone = set(map(id, unwanted))
        self.done[what] += len(gone)
        if gone:
            self.annotations = [one for one in self.annotations if id(one) not in gone]
