"""Split an annotation file into files for training, validation and testing."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from eca_mmdet.datasets.coco import read_annotations, require_instances, write_new
from eca_mmdet.datasets.entries import (
    Entry,
    image_name,
    is_annotation,
    is_category,
    is_image,
)
from eca_mmdet.datasets.rules.check import count_reasons, nothing_trained
from eca_mmdet.datasets.rules.rule import Content
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import sha256_of
from eca_mmdet.utils.text import clipped

T = TypeVar('T')

_STEPS = 2000
"""Moves that are tried, and as many more as there are classes."""

_PASSES = 5
"""Over all units, to even out sizes and shares."""

_NOISE = 0.15
"""Share of moves at random, which lead out of a dead end."""


@dataclass(frozen=True)
class SplitReport:
    """Files of a split, and how each class is distributed over them.

    Attributes:
        files: path of each part: 'train', 'val' and perhaps 'test'.
        images: number of images by part; ``annotations`` is the same for these.
        classes: name of each class, and by part its numbers of images and objects,
            crowd regions excluded.
        too_rare: classes with fewer images or groups than there are parts.
        not_in_each_part: classes that could be in each part and are not.
        left_out_annotations: number of annotations without an image in the file.
        nothing_to_train_on: parts without an object that mmdet would train on.
        grouped: whether some images had to stay together.
    """

    files: dict[str, Path]
    images: dict[str, int]
    annotations: dict[str, int]
    classes: list[dict[str, Any]]
    too_rare: list[str]
    not_in_each_part: list[str]
    left_out_annotations: int
    nothing_to_train_on: list[str]
    crowds: int
    grouped: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        entries = dict(vars(self))
        entries['files'] = {name: str(path) for name, path in self.files.items()}
        del entries['crowds'], entries['grouped']
        return entries


def split_annotations(
    file: str | Path,
    val: float,
    test: float | None = None,
    stratify: bool = False,
    group_by: str | None = None,
    images: str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> SplitReport:
    """Write ``NAME_train.json``, ``NAME_val.json`` and perhaps ``NAME_test.json``.

    The same file, in any order, and the same seed give the same split on every machine.

    Args:
        file: COCO annotation file.
        val: share of the images for validation.
        test: share of the images for a third file.
        stratify: give each part nearly the same share of every class.
        group_by: field of the image entries that keeps images together, or 'folder'.
        images: image folder; files that are equal byte for byte stay together.
        seed: random seed.
        out: folder to write to; None for that of ``file``.

    Raises:
        UserError: the file cannot be split, or one of the files exists.

    Example:
        >>> import eca_mmdet
        >>> report = eca_mmdet.split_annotations('train.json', val=0.25)
        >>> report.images
        {'train': 3, 'val': 1}
    """
    shares = {'val': val} | ({'test': test} if test else {})
    if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
        raise UserError(
            f'--val and --test must leave images for training; got {shares}.',
            code='option-invalid',
        )
    source = Path(file)
    content = read_annotations(source).content
    require_instances(source, content)
    units = make_units(content, group_by, Path(images) if images else None)
    places = divide(units, list(shares.values()), seed, stratify)
    parts = _parts(content, ['train', *shares], units, places)
    folder = source.parent if out is None else Path(out)
    stem = source.name.removesuffix('.json')
    files = {name: folder / f'{stem}_{name}.json' for name in parts}
    write_new({files[name]: part for name, part in parts.items()})
    return _report(files, content, parts, units)


def _parts(
    content: Mapping[str, Any],
    names: Sequence[str],
    units: Sequence[Unit],
    places: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Return the parts: their images and annotations, and all other keys whole."""
    parts: dict[str, dict[str, Any]] = {}
    part_of: dict[Any, list[Any]] = {}  # annotations of its part, by image id
    for place, name in enumerate(names):
        of_part = (u.images for u, at in zip(units, places, strict=True) if at == place)
        chosen = sorted(chain.from_iterable(of_part))
        part = {**content, 'images': [content['images'][at] for at in chosen]}
        if 'annotations' in content:
            part['annotations'] = []
            ids = (one['id'] for one in part['images'])
            part_of |= dict.fromkeys(ids, part['annotations'])
        parts[name] = part
    for one in content.get('annotations', ()):  # once: each is decoded anew
        if is_annotation(one) and one['image_id'] in part_of:
            part_of[one['image_id']].append(one)
    return parts


def _report(
    files: dict[str, Path],
    content: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    units: Sequence[Unit],
) -> SplitReport:
    annotations = {name: part.get('annotations', []) for name, part in parts.items()}
    objects = {
        name: [one for one in part if not one.get('iscrowd')]
        for name, part in annotations.items()
    }
    counts = {
        part: Counter(one['category_id'] for one in found)
        for part, found in objects.items()
    }
    image_counts = {
        part: Counter(
            key for key, _ in {(one['category_id'], one['image_id']) for one in found}
        )
        for part, found in objects.items()
    }
    held = Counter(name for unit in units for name in unit.classes)
    classes, rare, missed = [], [], []
    names = {c['id']: c['name'] for c in content['categories'] if is_category(c)}
    for key, name in names.items():
        by_part = {
            part: {'images': image_counts[part][key], 'objects': counts[part][key]}
            for part in parts
        }
        classes.append({'name': name, **by_part})
        wanted = list(parts)[: held[key]]
        absent = [part for part in wanted if not counts[part][key]]
        if absent:
            missed.append(f'{name} (not in {", ".join(absent)})')
        elif 0 < held[key] < len(parts):
            rare.append(f'{name} ({held[key]})')
    kept = {name: len(part) for name, part in annotations.items()}
    return SplitReport(
        files,
        {name: len(part['images']) for name, part in parts.items()},
        kept,
        classes,
        rare,
        missed,
        len(content.get('annotations', ())) - sum(kept.values()),
        [name for name, part in parts.items() if _is_untrained(part)],
        sum(kept.values()) - sum(map(len, objects.values())),
        len(units) < len(content['images']),
    )


def _is_untrained(part: Mapping[str, Any]) -> bool:
    counts = count_reasons(Content.of(part))
    return 'annotations' in part and (not counts or bool(nothing_trained(counts)))


def make_units(
    content: Mapping[str, Any], group_by: str | None, folder: Path | None
) -> list[Unit]:
    """Put images together that have the same id, name, bytes or group.

    ``group_by`` is a field of the image entries, or 'folder' for that of the file name.
    Files in the image folder ``folder`` are compared by their bytes.

    Raises:
        UserError: an entry has no id, name or group, or no image is in the folder.
    """
    images: Sequence[Any] = content['images']
    bad = sum(not is_image(one) for one in images)
    if bad:
        raise UserError(
            f"{bad} image entries have no 'id' or no 'file_name'. Repair the file with "
            'eca-mmdet data check --fix.',
            code='not-annotations',
        )
    marks: list[list[Hashable]] = [
        [('id', one['id']), ('name', _plain(one['file_name']))] for one in images
    ]
    if group_by is not None:
        for own, value in zip(marks, _groups(images, group_by), strict=True):
            own.append(('group', value))
    if folder is not None:
        for at, digest in _digests(images, folder).items():
            marks[at].append(('bytes', digest))
    present = _presence(content)
    return [
        Unit(
            tuple(together),
            tuple(sorted({_plain(images[at]['file_name']) for at in together})),
            Counter(
                name
                for image_id in {images[at]['id'] for at in together}
                for name in present.get(image_id, ())
            ),
        )
        for together in _joined(marks)
    ]


def _plain(name: str) -> str:
    """Return a file name in one form: './a//b.jpg' is 'a/b.jpg'."""
    return str(PurePosixPath(name))


def _groups(images: Sequence[Entry], field: str) -> list[str]:
    """Return the group of each image as text."""
    lacking = [one for one in images if one.get(field) is None]
    if field == 'folder' and len(lacking) == len(images):
        return [str(PurePosixPath(one['file_name']).parent) for one in images]
    if lacking:
        fields = sorted({str(key) for one in images for key in one})
        raise UserError(
            f'{len(lacking)} of {len(images)} images have no {field!r}, the first is '
            f'{image_name(lacking[0])}; --group-by needs it in each. Their fields: '
            f'{clipped(", ".join(fields), 200)}; or folder, of the file name.',
            code='option-invalid',
        )
    return [json.dumps(one[field], sort_keys=True) for one in images]


def _digests(images: Sequence[Entry], folder: Path) -> dict[int, str]:
    """Return a hash of each file that has the size of another one."""
    by_size = defaultdict[int, list[int]](list)
    for at, one in enumerate(images):
        path = folder / one['file_name']
        if '\0' not in one['file_name'] and path.is_file():
            by_size[path.stat().st_size].append(at)
    if not by_size:
        raise UserError(
            f'none of the {len(images)} images is in {folder}; the first is '
            f'{image_name(images[0])}. Give the folder that the names are relative to.',
            code='no-images',
        )
    digests = {}
    for alike in by_size.values():
        for at in alike if len(alike) > 1 else ():
            try:
                digests[at] = sha256_of(folder / images[at]['file_name'])
            except OSError as error:
                raise UserError(
                    f'{error.filename} cannot be read: {error}', code='file-unreadable'
                ) from error
    return digests


def _presence(content: Mapping[str, Any]) -> dict[Any, set[Any]]:
    """Return the categories of each image id; a crowd is no object to learn."""
    known = {one['id'] for one in content['categories'] if is_category(one)}
    present = defaultdict[Any, set[Any]](set)
    for one in content.get('annotations', ()):
        if (
            is_annotation(one)
            and not one.get('iscrowd')
            and one['category_id'] in known
        ):
            present[one['image_id']].add(one['category_id'])
    return present


def _joined(marks: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Return the positions that share a mark, directly or through others."""
    parent = list(range(len(marks)))

    def first(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    seen: dict[Hashable, int] = {}
    for at, own in enumerate(marks):
        for mark in own:
            a, b = sorted((first(at), first(seen.setdefault(mark, at))))
            parent[b] = a
    together = defaultdict[int, list[int]](list)
    for at in range(len(marks)):
        together[first(at)].append(at)
    return list(together.values())


@dataclass(frozen=True)
class Unit:
    """Images that are split as one.

    Attributes:
        images: their positions in the file.
        names: their file names, sorted: the same in a file of another order.
        classes: category ids, and how many of the images have an object of it.
    """

    images: tuple[int, ...]
    names: tuple[str, ...]
    classes: Mapping[Any, int]

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.images)

    def order(self, seed: int) -> bytes:
        """Return what to sort by for a random order, the same on every machine."""
        text = '\0'.join([str(seed), *self.names])
        return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()


def divide(
    units: Sequence[Unit], shares: Sequence[float], seed: int, stratify: bool
) -> list[int]:
    """Return the part of each unit.

    ``shares`` of the images are for each part but the first, which gets the rest. With
    ``stratify`` each part gets nearly the same share of every class, by iterative
    stratification.

    Raises:
        UserError: there are fewer units than parts.

    Source:
        Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data,
        ECML PKDD 2011. It looks at one class at a time, so that images of several
        classes leave the shares uneven; single moves even them out afterwards.
    """
    if len(units) <= len(shares):
        raise UserError(
            f'{len(units)} images or groups cannot be split into {len(shares) + 1} '
            'parts. Give more images, or smaller groups.',
            code='no-images',
        )
    ordered = sorted(units, key=lambda unit: unit.order(seed))
    total = sum(unit.size for unit in units)
    targets = [max(1.0, share * total) for share in shares]
    targets.insert(0, total - sum(targets))
    parts = _stratified(ordered, targets) if stratify else _filled(ordered, targets)
    _fill_empty(ordered, parts, len(targets))
    search = _Search(ordered, parts, targets, seed)
    search.cover_classes()
    search.balance(stratify)
    part_of = dict(zip((unit.images for unit in ordered), search.parts, strict=True))
    return [part_of[unit.images] for unit in units]


def _filled(ordered: Sequence[Unit], targets: Sequence[float]) -> list[int]:
    """Fill the parts but the first one after another, each to the nearest size."""
    parts = [0] * len(ordered)
    left = list(targets)
    for at, unit in enumerate(ordered):
        for part in range(1, len(targets)):
            if unit.size < 2 * left[part]:
                parts[at] = part
                left[part] -= unit.size
                break
    return parts


def _stratified(ordered: Sequence[Unit], targets: Sequence[float]) -> list[int]:
    """Hand out the rarest class first, to the part that lacks most of it."""
    total = sum(targets)
    count: Counter[Any] = Counter()
    holders = defaultdict[Any, list[int]](list)
    for at, unit in enumerate(ordered):
        count.update(unit.classes)
        for name in unit.classes:
            holders[name].append(at)
    lacking = {
        name: [number * target / total for target in targets]
        for name, number in count.items()
    }
    left = list(targets)
    parts = [-1] * len(ordered)

    def give(at: int, name: Any) -> None:
        need = lacking[name] if name is not None else left
        part = max(range(len(left)), key=lambda p: (round(need[p], 9), left[p], -p))
        parts[at] = part
        left[part] -= ordered[at].size
        for other, number in ordered[at].classes.items():
            lacking[other][part] -= number
            count[other] -= number

    # Larger groups first: the smaller ones even out what these leave.
    while +count:
        present = (name for name in count if count[name] > 0)
        name = min(present, key=lambda n: (count[n], str(n), type(n).__name__))
        rest = [at for at in holders[name] if parts[at] < 0]
        for at in sorted(rest, key=lambda at: -ordered[at].size):
            give(at, name)
    for at in sorted(range(len(parts)), key=lambda at: -ordered[at].size):
        if parts[at] < 0:
            give(at, None)
    return parts


def _fill_empty(ordered: Sequence[Unit], parts: list[int], part_count: int) -> None:
    """Give each part without a unit the smallest of the part with the most."""
    for part in range(part_count):
        if part in parts:
            continue
        most = Counter(parts).most_common()
        donor = min(one for one, number in most if number == most[0][1])
        own = [at for at, one in enumerate(parts) if one == donor]
        parts[min(own, key=lambda at: ordered[at].size)] = part


class _Search:
    """Moves units until every class is in the parts where it should be.

    Whether that can be reached at all is a hard question (the splitting of sets), so
    this is a local search with a bound. ``parts`` has the best state.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        parts: Sequence[int],
        targets: Sequence[float],
        seed: int,
    ) -> None:
        self._units = units
        self._targets = targets
        self._random = random.Random(seed)
        self.parts = list(parts)
        self._holders = defaultdict[Any, list[int]](list)
        self._have: list[Counter[Any]] = [Counter() for _ in targets]
        self._seen = defaultdict[Any, Counter[int]](Counter)
        self._sizes = [0] * len(targets)
        for at, unit in enumerate(units):
            self._sizes[parts[at]] += unit.size
            for name, number in unit.classes.items():
                self._holders[name].append(at)
                self._have[parts[at]][name] += 1
                self._seen[name][parts[at]] += number
        self._count = Counter(parts)
        self._images = {name: seen.total() for name, seen in self._seen.items()}
        self._names = sorted(self._holders, key=lambda one: (str(one), repr(one)))

    def cover_classes(self) -> None:
        """Move units until every class is in its parts, or the tries are used up."""
        missing = self._missing()
        best, least = list(self.parts), len(missing)
        last = -1
        for _ in range(_STEPS + len(self._holders) if missing else 0):
            part, name = self._pick(missing)
            tries = [at for at in self._holders[name] if at != last]
            tries = tries or self._holders[name]
            if self._random.random() < _NOISE:
                last = self._pick(tries)
            else:
                last = min(tries, key=lambda at: self._cost(at, part))  # noqa: B023
            self._change(last, part)
            missing = self._missing()
            if len(missing) < least:
                best, least = list(self.parts), len(missing)
            if not missing:
                break
        for at, part in enumerate(best):
            if part != self.parts[at]:
                self._move(at, part)

    def _pick(self, items: Sequence[T]) -> T:
        # random() alone is promised to be the same in every version of Python.
        return items[int(self._random.random() * len(items))]

    def _missing(self) -> list[tuple[int, Any]]:
        """Return the parts and classes that should meet, in a fixed order."""
        return [
            (part, name)
            for name in self._names
            for part in self._wanted(name)
            if not self._have[part][name]
        ]

    def _wanted(self, name: Any) -> range:
        """Return the parts a class should be in: training first, then validation."""
        return range(min(len(self._holders[name]), len(self._targets)))

    def _change(self, at: int, part: int) -> None:
        """Move a unit; if that empties its part, move the best one back."""
        own = self.parts[at]
        self._move(at, part)
        if not self._count[own]:
            back = [k for k, one in enumerate(self.parts) if one == part and k != at]
            self._move(min(back, key=lambda k: self._cost(k, own)), own)

    def _cost(self, at: int, part: int) -> tuple[int, float]:
        """Return what a move adds to the missing ones, and to the error of sizes."""
        return self._loss(at, part), self._misfit(at, part)

    def _loss(self, at: int, part: int) -> int:
        own, missing = self.parts[at], 0
        for name in self._units[at].classes:
            wanted = self._wanted(name)
            missing += own in wanted and self._have[own][name] == 1
            missing -= part in wanted and not self._have[part][name]
        return missing

    def _misfit(self, at: int, part: int) -> float:
        """Return what a move adds to the squared errors of sizes."""
        size = self._units[at].size
        own = self._sizes[self.parts[at]] - self._targets[self.parts[at]]
        other = self._sizes[part] - self._targets[part]
        return 2.0 * size * (size + other - own)

    def _unevenness(self, at: int, part: int) -> float:
        """Return the same with the errors of each class, each by what there is of it.

        The size weighs as much as all classes.
        """
        own, total = self.parts[at], sum(self._targets)
        shares = self._targets[own] / total, self._targets[part] / total
        added = len(self._images) * self._misfit(at, part) / total
        for name, number in self._units[at].classes.items():
            seen, whole = self._seen[name], self._images[name]
            over = seen[own] - shares[0] * whole
            under = seen[part] - shares[1] * whole
            added += 2.0 * number * (number + under - over) / whole
        return added

    def _move(self, at: int, part: int) -> None:
        own = self.parts[at]
        for name in self._units[at].classes:
            self._have[own][name] -= 1
            self._have[part][name] += 1
            self._seen[name][own] -= self._units[at].classes[name]
            self._seen[name][part] += self._units[at].classes[name]
        for index, sign in ((own, -1), (part, 1)):
            self._sizes[index] += sign * self._units[at].size
            self._count[index] += sign
        self.parts[at] = part

    def balance(self, stratify: bool) -> None:
        """Even out the sizes, or the shares too, by units that no class depends on."""
        error = self._unevenness if stratify else self._misfit
        for _ in range(_PASSES):
            before = list(self.parts)
            for at in range(len(self._units)):
                for part in range(len(self._targets)):
                    if part == self.parts[at] or self._count[self.parts[at]] == 1:
                        continue
                    if error(at, part) < -1e-9 and self._loss(at, part) <= 0:
                        self._move(at, part)
            if self.parts == before:
                break
