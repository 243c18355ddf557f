"""Rules and the faults that they report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from eca_mmdet.datasets.rules.content import Repair

Severity = Literal['error', 'warning', 'note']
"""An 'error' makes training or AP crash or be wrong under mmdet's CocoDataset and
CocoMetric, pycocotools, or this package. A 'warning' works, but not as the author of
the file thinks. A 'note' is no fault."""

EXAMPLES = 3

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of fault in one file.

    Attributes:
        code: of the rule.
        severity: 'error', 'warning' or 'note'.
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
        return dataclasses.asdict(self)

    def line(self) -> str:
        """Return everything in one line, without the severity."""
        more = ', ...' if self.count > len(self.examples) else ''
        shown = f' ({", ".join(self.examples)}{more})' if self.examples else ''
        fix = f' --fix: {self.fix}.' if self.fix else ''
        return f'{self.count} x {self.code}: {self.message}{shown}.{fix}'


class Phase(IntEnum):
    """Order of repairs: each relies on those of the phases before it."""

    ENTRIES = 1  # only usable entries are left
    IDS = 2  # ids of images and categories are whole, references agree with them
    FILES = 3  # every image has a file
    SIZES = 4  # every image has its size
    DUPLICATES = 5  # equal images and categories are one, with the right size
    REFERENCES = 6  # every annotation has its image and category
    FLAGS = 7  # crowd flags are 0 or 1
    MASKS = 8  # usable, or gone; annotations that need one have one
    BOXES = 9  # every annotation has a box, from its mask if need be
    EXTENTS = 10  # boxes are inside their images
    AREAS = 11  # every annotation has its area, from its mask or box
    NUMBERS = 12  # annotation ids, when it is known which annotations stay


class Fix(NamedTuple):
    """What is done about a fault.

    Attributes:
        summary: of the repair, in words.
        phase: when it runs.
        apply: changes a copy of the content; rules may share it.
    """

    summary: str
    phase: Phase
    apply: Callable[[Repair], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Generic[T]):
    """One kind of fault: what it is, how it is found, how it is repaired.

    Attributes:
        code: stable name.
        severity: of the fault.
        message: what it is and what follows from it.
        find: returns the items that have the fault.
        describe: names an item as an example.
        note_if: tells content in which the fault is only a note.
        fix: its repair; None if a person must decide.
    """

    code: str
    severity: Severity
    message: str
    find: Callable[[T], Sequence[Any]]
    describe: Callable[[Any], str] = str
    note_if: Callable[[T], bool] = lambda content: False
    fix: Fix | None = None

    def check(self, content: T) -> list[Fault]:
        """Return the fault as a list; an empty one if no item has it."""
        items = self.find(content)
        if not items:
            return []
        examples = dict.fromkeys(self.describe(item) for item in items[:EXAMPLES])
        severity = 'note' if self.note_if(content) else self.severity
        return [
            Fault(
                self.code,
                severity,
                len(items),
                self.message,
                tuple(examples),
                self.fix and self.fix.summary,
            )
        ]
