"""What rules look at, and what repairs change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eca_mmdet.datasets.entries import (
    Entry,
    Size,
    is_annotation,
    is_category,
    is_image,
    size_of,
)
from eca_mmdet.datasets.images import ImageFiles

T = TypeVar('T')

USABLE: dict[str, Callable[[Any], bool]] = {
    'images': is_image,
    'categories': is_category,
    'annotations': is_annotation,
}


@dataclass(eq=False)
class Content:
    """Usable entries of an annotation file, and what is known besides.

    Attributes:
        images: in the order of the file, as the others.
        categories: with an id and a name.
        annotations: with ids of an image and a category; their own may be bad.
        malformed: positions of all other entries, by key.
        classes: class names of a config; None if there is nothing to compare.
        files: what is known of the image files; None if they were not looked for.
    """

    images: list[Entry] = field(default_factory=list)
    categories: list[Entry] = field(default_factory=list)
    annotations: list[Entry] = field(default_factory=list)
    malformed: dict[str, list[int]] = field(default_factory=dict)
    classes: Sequence[str] | str | None = None
    files: ImageFiles | None = None
    _derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, content: Mapping[str, Any], classes: Sequence[str] | str | None = None
    ) -> Content:
        """Sort the entries of a file."""
        usable: dict[str, list[Entry]] = {}
        malformed: dict[str, list[int]] = {}
        for key, is_usable in USABLE.items():
            entries = list(content.get(key, ()))
            usable[key] = [entry for entry in entries if is_usable(entry)]
            if len(usable[key]) < len(entries):
                malformed[key] = [
                    at for at, entry in enumerate(entries) if not is_usable(entry)
                ]
        return cls(
            usable['images'],
            usable['categories'],
            usable['annotations'],
            malformed,
            classes,
        )

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


def _sizes(content: Content) -> dict[Any, Size | None]:
    return {image['id']: size_of(image) for image in content.images}


class Repair:
    """A copy of the entries of an annotation file, while it is repaired.

    Args:
        content: of the file, which is not changed.
        files: what is known of the images.

    Attributes:
        images: copies, changed in place or replaced; as the others.
        done: how often each repair was made, by what it says to the user.
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
