"""Two annotation files that are used together: training and validation."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.entries import is_category, is_image
from eca_mmdet.datasets.rules.categories import plain
from eca_mmdet.datasets.rules.rule import Fault, Rule


@dataclass
class Splits:
    """The content of two files.

    Attributes:
        train_content: of the training file; ``images`` and ``categories`` are read.
        val_content: of the validation file.
        classes: the names in use; None means all.
        folders: of the images of each. Equal file names in different folders are one
            image only if the files are equal.
    """

    train_content: dict[str, Any]
    val_content: dict[str, Any]
    classes: Sequence[str] | None = None
    folders: tuple[Path, Path] | None = None

    @cached_property
    def train(self) -> list[str]:
        """Names of the categories in use of the training file."""
        return self._names(self.train_content)

    @cached_property
    def val(self) -> list[str]:
        """Names of the categories in use of the validation file."""
        return self._names(self.val_content)

    def _names(self, content: dict[str, Any]) -> list[str]:
        names = [one['name'] for one in content['categories'] if is_category(one)]
        wanted = None if self.classes is None else set(map(plain, self.classes))
        return [
            name
            for name in dict.fromkeys(names)
            if wanted is None or plain(name) in wanted
        ]

    @cached_property
    def spellings(self) -> list[tuple[str, str]]:
        """Pairs of names that differ by case or spaces."""
        only = {plain(name): name for name in self.train if name not in self.val}
        return [
            (only[plain(name)], name)
            for name in self.val
            if name not in self.train and plain(name) in only
        ]

    def only_in(self, names: list[str], other: list[str]) -> list[str]:
        """Return the names that the other file has in no spelling."""
        respelt = {name for pair in self.spellings for name in pair}
        return [name for name in names if name not in other and name not in respelt]

    def moved(self) -> list[str]:
        """Return common names that are at another place among the common ones."""
        train = [name for name in self.train if name in self.val]
        val = [name for name in self.val if name in self.train]
        return [a for a, b in zip(train, val, strict=True) if a != b]

    @cached_property
    def common_files(self) -> list[str]:
        """File names that both have."""
        files = {
            one['file_name'] for one in self.train_content['images'] if is_image(one)
        }
        names = (
            one['file_name'] for one in self.val_content['images'] if is_image(one)
        )
        return [name for name in dict.fromkeys(names) if name in files]

    def leaked(self) -> list[str]:
        """Return the common file names that are the same image."""
        if self.folders is None:
            return []
        train, val = self.folders
        if train.resolve() == val.resolve():
            return self.common_files
        return [name for name in self.common_files if _equal(train / name, val / name)]


def _equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except (OSError, ValueError):  # missing files are another rule's
        return False


RULES: tuple[Rule[Splits], ...] = (
    Rule(
        code='split-category-spelling',
        severity='error',
        message='category spelt differently in the two files, by case or spaces alone',
        find=lambda splits: splits.spellings,
        describe=lambda pair: f'{pair[0]!r} and {pair[1]!r}',
    ),
    Rule(
        code='split-missing-category',
        severity='error',
        message='category of the training file that the validation file lacks: labels '
        'shift and AP is wrong',
        find=lambda splits: splits.only_in(splits.train, splits.val),
        describe=repr,
    ),
    Rule(
        code='split-extra-category',
        severity='warning',
        message='category of the validation file that the training file lacks: never '
        'learnt',
        find=lambda splits: splits.only_in(splits.val, splits.train),
        describe=repr,
    ),
    Rule(
        code='split-category-order',
        severity='error',
        message='the two files list their categories in another order, by which mmdet '
        'numbers labels: AP is wrong',
        find=Splits.moved,
        describe=repr,
    ),
    Rule(
        code='split-same-file-name',
        severity='warning',
        message='file name in both training and validation; with --images and '
        '--val-images the files themselves are compared',
        find=lambda splits: [] if splits.folders else splits.common_files,
        describe=repr,
    ),
    Rule(
        code='split-leak',
        severity='warning',
        message='image in both training and validation',
        find=Splits.leaked,
        describe=repr,
    ),
)


def compare_splits(
    train: dict[str, Any],
    val: dict[str, Any],
    classes: Sequence[str] | None = None,
    folders: tuple[Path, Path] | None = None,
) -> list[Fault]:
    """Find faults of two files together; arguments as for :class:`Splits`."""
    splits = Splits(train, val, classes, folders)
    return [fault for rule in RULES for fault in rule.check(splits)]
