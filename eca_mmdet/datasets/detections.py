"""Detections as columns; result files, read a part at a time and written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eca_mmdet.datasets.entries import as_json, is_box, is_finite_number
from eca_mmdet.datasets.ground_truth import Floats, GroundTruth, Ints, normal_id
from eca_mmdet.datasets.masks import (
    MASK_FAULTS,
    Rles,
    as_bytes,
    count_pixels,
    mask_api,
    mask_faults,
    to_rle,
)
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json, whole_file
from eca_mmdet.utils.text import first

TASKS = ('bbox', 'segm')
FIELDS = {'bbox': 'bbox', 'segm': 'segmentation'}

_LARGEST = 1e300
"""Four numbers below it have a finite sum."""

SERVER_LIMIT = 100
"""Detections an image that COCO's server takes."""

BLOCK = 1 << 22
"""Bytes read at a time, about 30,000 detections."""

_SPACE = b' \t\n\r'
_MOST_SPACE = 99
"""Bytes between two entries."""
_TRIES = 9
"""Places where a text is cut, from the end on."""


@dataclass(frozen=True)
class Detections:
    """N detections of one task, in the order in which ties of the score count.

    Attributes:
        image: (N,) positions in the ground truth's ``image_ids``.
        category: (N,) positions in its ``category_ids``.
        scores: (N,) float64.
        boxes: (N, 4) x, y, width, height in pixels; for masks, None.
        masks: N compressed RLEs; for boxes, None.
    """

    image: Ints
    category: Ints
    scores: Floats
    boxes: Floats | None = None
    masks: Rles | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Ints) -> Detections:
        """Return some detections, by their positions."""
        return Detections(
            image=self.image[rows],
            category=self.category[rows],
            scores=self.scores[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            masks=None if self.masks is None else self.masks.take(rows),
        )

    def part(self, start: int, stop: int) -> Detections:
        """Return those of some images, by the images' positions."""
        found = self.take(np.flatnonzero((self.image >= start) & (self.image < stop)))
        return replace(found, image=found.image - start)

    def count_pairs(self) -> int:
        """Return how many pairs of an image and a class have detections."""
        kinds = int(self.category.max(initial=0)) + 1
        return len(np.unique(self.image.astype(np.int64) * kinds + self.category))

    def areas(self) -> Floats:
        """Return N areas: of the masks, or of the boxes. They decide S, M and L."""
        if self.masks is not None:
            return self.masks.areas
        assert self.boxes is not None
        return np.asarray(self.boxes[:, 2] * self.boxes[:, 3], np.float64)


class PlainRle(msgspec.Struct, gc=False):
    """A compressed RLE of a result file."""

    size: tuple[int, int]
    counts: str


class PlainEntry(msgspec.Struct, gc=False):
    """An entry of a result file as most programs write them, decoded fast."""

    image_id: int
    category_id: int
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: PlainRle | None = None


_PLAIN = msgspec.json.Decoder(list[PlainEntry])


def plain_detections(
    entries: Sequence[PlainEntry], truth: GroundTruth, tasks: Sequence[str]
) -> dict[str, Detections] | None:
    """Return what :func:`detections_of` does; None if an entry may be faulty.

    Raises OverflowError for numbers beyond int64.
    """
    image = _find([one.image_id for one in entries], truth.id_columns[0])
    category = _find([one.category_id for one in entries], truth.id_columns[1])
    if image is None or category is None:
        return None
    scores = np.array([one.score for one in entries], np.float64)
    found = {}
    for task in tasks:
        boxes = masks = None
        if task == 'bbox':
            boxes = _plain_boxes([one.bbox for one in entries])
        else:
            rles = [one.segmentation for one in entries]
            masks = _plain_masks(rles, truth.sizes[image])
        if boxes is None and masks is None:
            return None
        found[task] = Detections(image, category, scores, boxes, masks)
    return found


def _find(values: list[int], ids: Ints) -> Ints | None:
    """Return the positions of all values in ascending ids."""
    wanted = np.array(values, np.int64)
    at = np.searchsorted(ids, wanted)
    return at if (ids.take(at, mode='clip') == wanted).all() else None


def _plain_boxes(boxes: list[Any]) -> Floats | None:
    if None in boxes:
        return None
    found = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
    found = found.reshape(-1, 4)
    sound = np.abs(found).max() < _LARGEST and found[:, 2:].min() >= 0
    return found if sound else None


def _plain_masks(rles: list[Any], image_sizes: Ints) -> Rles | None:
    if None in rles:
        return None
    counts = [one.counts.encode() for one in rles]
    sides = chain.from_iterable([one.size for one in rles])
    sizes = np.fromiter(sides, np.int64, 2 * len(rles)).reshape(-1, 2)
    if not ((sizes > 0) & (sizes < 2**31)).all() or sizes.prod(1).max() >= 2**32:
        return None
    known = image_sizes.all(1)
    pixels, inside = count_pixels(counts)
    if (sizes != image_sizes)[known].any() or (pixels != sizes.prod(1)).any():
        return None
    return Rles(counts, sizes, inside.astype(np.float64))


def detections_of(
    entries: Any,
    truth: GroundTruth,
    source: str = 'results',
    tasks: Sequence[str] | None = None,
) -> dict[str, Detections]:
    """Turn the content of a result file into columns; see :func:`read_results`."""
    _require_results(entries, source)
    faults = _Faults(source, len(entries))
    image = _positions(entries, 'image_id', truth.image_ids, truth.source, faults)
    category = _positions(
        entries, 'category_id', truth.category_ids, truth.source, faults
    )
    scores = _scores(entries, faults)
    faults.check()
    found = {}
    for task in tasks or _tasks_in(entries):
        boxes, masks, sizes = None, None, truth.sizes[image]
        if task == 'bbox':
            boxes = _boxes(entries, sizes, faults)
        else:
            masks = _masks(entries, sizes, faults)
        faults.check()
        found[task] = Detections(image, category, scores, boxes, masks)
    return found


def _require_results(entries: Any, source: str) -> None:
    expected = (
        'expected a JSON list of objects with image_id, category_id, score and bbox '
        'or segmentation'
    )
    keys = {'image_id', 'category_id', 'score'}
    if isinstance(entries, dict):
        is_file = 'annotations' in entries
        reason = f'it is {"an annotation file" if is_file else "another object"}'
    elif not isinstance(entries, list):
        reason = f'it is a {type(entries).__name__}'
    else:
        wrong = [
            index
            for index, entry in enumerate(entries)
            if not isinstance(entry, dict) or not keys <= entry.keys()
        ]
        if not wrong:
            return
        first = entries[wrong[0]]
        found = sorted(first) if isinstance(first, dict) else type(first).__name__
        reason = (
            f'{len(wrong)} of {len(entries)} entries are not, number {wrong[0]} has '
            f'{found}'
        )
    raise UserError(
        f'{source} is not a result file: {expected}; {reason}.', code='not-results'
    )


def _tasks_in(entries: list[Any]) -> list[str]:
    """Return the tasks whose field every entry has; no entry at all says boxes."""
    tasks = [t for t, key in FIELDS.items() if all(one.get(key) for one in entries)]
    return tasks if tasks and entries else ['bbox']


class _Faults:
    """Collects faulty entries of one file, and raises them in one message."""

    def __init__(self, source: str, total: int) -> None:
        self._source = source
        self._total = total
        self._lines: list[str] = []

    def add(self, what: str, indices: Sequence[int], examples: Sequence[Any]) -> None:
        """Note entries of one kind, if there are any."""
        if len(indices):
            shown = ', '.join(repr(one)[:60] for one in list(examples)[:3])
            self._lines.append(
                f'{len(indices)} of {self._total} detections {what}; the first is '
                f'number {indices[0]} ({shown})'
            )

    def note(self, line: str) -> None:
        """Note a fault of all entries."""
        self._lines.append(line)

    def check(self) -> None:
        """Raise UserError if anything was noted."""
        if self._lines:
            raise UserError(
                f'{self._source}: {"; ".join(self._lines)}.', code='not-results'
            )


def _positions(
    entries: list[Any], key: str, ids: tuple[Any, ...], truth: str, faults: _Faults
) -> Ints:
    """Return the position of each entry's id among the annotation file's."""
    at = {key: index for index, key in enumerate(ids)}
    found = np.full(len(entries), -1, np.int64)
    for index, one in enumerate(entries):
        try:
            found[index] = at.get(normal_id(one[key]), -1)
        except ValueError:
            continue
    unknown = np.flatnonzero(found < 0).tolist()
    examples = list({repr(v): v for v in (entries[i][key] for i in unknown)}.values())
    known = f'{truth} has {len(ids)}' + (f', e.g. {ids[0]!r}' if ids else '')
    if len(unknown) == len(entries) > 1:
        shown = first([repr(value)[:60] for value in examples])
        faults.note(
            f'none of the {len(entries):,} detections refers to {truth}: unknown {key} '
            f'({len(examples)} ids, e.g. {shown}; {known}): results of another dataset?'
        )
    else:
        faults.add(f'have an unknown {key} ({known})', unknown, examples)
    return found


def _scores(entries: list[Any], faults: _Faults) -> Floats:
    bad = [i for i, one in enumerate(entries) if not is_finite_number(one['score'])]
    examples = [entries[i]['score'] for i in bad[:3]]
    faults.add('have a score that is no finite number', bad, examples)
    if bad:
        return np.zeros(len(entries))
    return np.array([one['score'] for one in entries], np.float64)


def _boxes(entries: list[Any], sizes: Ints, faults: _Faults) -> Floats:
    """Return boxes (N, 4) x, y, width, height; those of masks where there are none."""
    boxes = [one.get('bbox') for one in entries]
    masked = [i for i, box in enumerate(boxes) if not box]
    masked = [i for i in masked if entries[i].get('segmentation')]
    if masked:  # a file of masks alone
        chosen = [entries[i] for i in masked]
        rles = _masks(chosen, sizes[masked], faults)
        faults.check()
        for index, rle in zip(masked, rles, strict=True):
            boxes[index] = mask_api().toBbox(rle).tolist()
    bad = [i for i, box in enumerate(boxes) if not is_box(box)]
    faults.add(
        'have a bbox that is not four finite numbers x, y, width, height',
        bad,
        [boxes[i] for i in bad[:3]],
    )
    if bad:
        return np.zeros((len(entries), 4))
    found = np.array(boxes, np.float64).reshape(-1, 4)
    negative = np.flatnonzero((found[:, 2:] < 0).any(1)).tolist()
    faults.add(
        'have a box of negative width or height (x1, y1, x2, y2 instead of x, y, '
        'width, height?)',
        negative,
        [boxes[i] for i in negative[:3]],
    )
    return found


def _masks(entries: list[Any], sizes: Ints, faults: _Faults) -> Rles:
    found = [one.get('segmentation') for one in entries]
    extents = sizes.tolist()
    wrong = mask_faults(found, extents)
    for code in dict.fromkeys(wrong.values()):
        indices = [index for index, other in wrong.items() if other == code]
        reason = f'cannot be used: each {MASK_FAULTS[code]}'
        faults.add(reason, indices, [found[i] for i in indices[:3]])
    pairs = [] if wrong else zip(found, extents, strict=True)
    rles = [to_rle(one, *size) for one, size in pairs]
    counts = [as_bytes(rle['counts']) for rle in rles]
    return Rles.of(counts, np.array([r['size'] for r in rles], np.int64).reshape(-1, 2))


@dataclass(frozen=True)
class Results:
    """Detections of a result file by task, its hash, and notes for the user."""

    found: dict[str, Detections]
    sha256: str
    notes: tuple[str, ...]


def read_results(
    source: str | Path | Sequence[Mapping[str, Any]],
    truth: GroundTruth,
    tasks: Sequence[str] | None = None,
) -> Results:
    """Read a COCO result file or its content: a list of one object per detection.

    ``tasks`` are of 'bbox' and 'segm'; None takes those whose field every entry has. A
    file of masks only gives boxes too if 'bbox' is asked for.

    Raises:
        UserError: the file is of another kind, or has entries that cannot be right; the
            first of them and their number are named.
    """
    path, sha256 = 'results', ''
    if isinstance(source, (str, Path)):
        path = str(source)
        try:
            return _read_batches(Path(path), truth, tasks)
        except (NotStreamableError, UserError):  # counted over the whole file below
            entries, sha256, _ = read_json(path, 'result file')
    else:
        entries = as_json(source)
    found = detections_of(entries, truth, path, tasks)
    having = {task: _having(entries, task) for task in TASKS}
    return Results(found, sha256, _notes(path, having, len(entries), tasks))


def _read_batches(
    path: Path, truth: GroundTruth, tasks: Sequence[str] | None
) -> Results:
    """Read a file without faults; raise NotStreamableError or UserError for others."""
    parts: list[dict[str, Detections]] = []
    total, digest = 0, hashlib.sha256()
    wanted, having = list(tasks or TASKS), dict.fromkeys(TASKS, 0)
    for entries in entry_batches(path, digest):
        total += len(entries)
        for task in TASKS:
            having[task] += _having(entries, task)
        wanted = [task for task in wanted if tasks or having[task] == total]
        if not wanted:
            raise NotStreamableError
        part = None
        if isinstance(entries[0], PlainEntry):
            with contextlib.suppress(OverflowError):
                part = plain_detections(entries, truth, wanted)
            if part is None:  # e.g. boxes of masks
                entries = msgspec.json.decode(msgspec.json.encode(entries))
        if part is None:
            part = detections_of(entries, truth, str(path), wanted)
        parts.append(part)
    found = {task: _join([part[task] for part in parts]) for task in wanted}
    return Results(found, digest.hexdigest(), _notes(path, having, total, tasks))


def _join(parts: Sequence[Detections]) -> Detections:
    """Put detections of one task behind each other."""
    boxes = [part.boxes for part in parts if part.boxes is not None]
    rles = [part.masks for part in parts if part.masks is not None]
    return Detections(
        image=np.concatenate([part.image for part in parts]),
        category=np.concatenate([part.category for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        boxes=np.concatenate(boxes) if boxes else None,
        masks=Rles.join(rles) if rles else None,
    )


def _having(entries: list[Any], task: str) -> int:
    """Count the entries with a task's field."""
    if entries and isinstance(entries[0], PlainEntry):
        fields = [e.bbox if task == 'bbox' else e.segmentation for e in entries]
        return len(entries) - fields.count(None)
    # Others are rejected later.
    return sum(isinstance(e, dict) and bool(e.get(FIELDS[task])) for e in entries)


def _notes(
    path: str | Path, having: dict[str, int], total: int, tasks: Sequence[str] | None
) -> tuple[str, ...]:
    return tuple(
        f'{path}: {total - having[task]} of {total} detections have no '
        f'{FIELDS[task]}, so that {task} is not evaluated'
        for task in TASKS
        if not tasks and 0 < having[task] < total
    )


class NotStreamableError(Exception):
    """Something about the file that only reading it whole can name."""


def entry_batches(path: Path, digest: Any) -> Iterator[list[Any]]:
    """Yield lists of ``PlainEntry`` or dict, or raise NotStreamableError.

    ``digest`` is updated with the bytes of the file.
    """
    if not path.is_file():  # a pipe can be read once
        raise NotStreamableError
    rest = b''
    try:
        with open(path, 'rb') as file:
            while block := file.read(BLOCK):
                digest.update(block)
                rest = rest + block if rest else _after_bracket(block)
                entries, rest = _take(rest)
                if entries:
                    yield entries
                elif len(rest) > 2 * BLOCK:  # no entry is longer
                    raise NotStreamableError
        yield _decode(b'[' + rest)
    except (OSError, ValueError, RecursionError) as error:
        raise NotStreamableError from error


def _after_bracket(text: bytes) -> bytes:
    """Return what follows the bracket that opens a list of objects."""
    text = text.lstrip(_SPACE)
    inside = text[1:].lstrip(_SPACE)
    if text[:1] != b'[' or inside[:1] != b'{':
        raise NotStreamableError
    return inside


def _take(text: bytes) -> tuple[list[Any], bytes]:
    """Return the complete entries at the beginning of a text, and the rest.

    The text is cut at a comma between two objects. One inside an entry is of no use:
    what is before it is no JSON.
    """
    at = len(text)
    for _ in range(_TRIES):
        while (at := text.rfind(b'{', 0, at)) > 0:
            start = max(at - _MOST_SPACE, 0)
            before = text[start:at].rstrip(_SPACE)
            if before[-1:] == b',' and before[:-1].rstrip(_SPACE)[-1:] == b'}':
                break
        if at <= 0:
            break
        try:
            inside = memoryview(text)[: start + len(before) - 1]
            return _decode(b''.join((b'[', inside, b']'))), text[at:]
        except ValueError:
            continue
    return [], text


def _decode(text: bytes) -> list[Any]:
    """Return the entries of a list, or raise ValueError."""
    if not text.isascii():  # msgspec passes over text that it is not asked for
        text.decode('utf-8', 'surrogatepass')
    try:
        return _PLAIN.decode(text)
    except msgspec.MsgspecError:
        entries = json.loads(text)
    if not all(isinstance(entry, dict) for entry in entries):
        raise NotStreamableError
    return list(entries)


def results_path(prefix: str | Path, task: str) -> Path:
    """Return the file of one task, named as mmdet does: ``PREFIX.bbox.json``."""
    return Path(f'{prefix}.{task}.json')


def write_results(found: Detections, truth: GroundTruth, path: Path) -> None:
    """Write detections as a COCO result file, whole or not at all.

    Numbers are written so that reading them gives the same float64.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, open(partial, 'w') as file:
            file.writelines(_lines(found, truth))
    except OSError as error:
        raise UserError(
            f'results cannot be written to {path}: {error}', code='file-not-written'
        ) from error


def _lines(found: Detections, truth: GroundTruth) -> Iterator[str]:
    before = '[\n'
    for row in range(len(found)):
        entry = result_entry(found, truth, row)
        yield before + json.dumps(entry, separators=(',', ':'))
        before = ',\n'
    yield '\n]\n' if len(found) else '[]\n'


def result_entry(found: Detections, truth: GroundTruth, row: int) -> dict[str, Any]:
    """Return a detection as an entry of a result file."""
    entry: dict[str, Any] = {
        'image_id': truth.image_ids[found.image[row]],
        'category_id': truth.category_ids[found.category[row]],
        'score': float(found.scores[row]),
    }
    # A mask's entry has no box: pycocotools would take the box's area for S, M, L.
    if found.boxes is not None:
        entry['bbox'] = found.boxes[row].tolist()
    if found.masks is not None:
        size, counts = found.masks[row]['size'], found.masks[row]['counts']
        text = counts.decode() if isinstance(counts, bytes) else counts
        entry['segmentation'] = {'size': [*map(int, size)], 'counts': text}
    return entry


def top_of_each_image(found: Detections, limit: int = SERVER_LIMIT) -> Detections:
    """Return the highest scores of each image, in the order they had."""
    order = np.lexsort((np.arange(len(found)), -found.scores, found.image))
    image = found.image[order]
    start = np.searchsorted(image, image, side='left')
    return found.take(np.sort(order[np.arange(len(found)) - start < limit]))


def write_submission(
    found: Detections, truth: GroundTruth, folder: Path, algorithm: str
) -> Path:
    """Write the zip that COCO's evaluation server takes.

    It holds one JSON file of the same name without a folder, and of each image the 100
    highest scores (cocodataset.org, Upload). The server's name is the same for boxes
    and masks, so that each needs a ``folder`` of its own.
    """
    target = submission_path(folder, truth.source, algorithm)
    text = ''.join(_lines(top_of_each_image(found), truth))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(target) as partial,
            zipfile.ZipFile(partial, 'w', zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.writestr(f'{target.stem}.json', text)
    except OSError as error:
        raise UserError(
            f'{target} cannot be written: {error}', code='file-not-written'
        ) from error
    return target


def submission_path(folder: Path, annotations: str | Path, algorithm: str) -> Path:
    """Return the zip of :func:`write_submission`, named as COCO's server asks for.

    The name is ``detections_TESTSET_ALG_results``. The test set is part of an
    annotation file's name, e.g. image_info_test-dev2017.json. Underscores of the
    algorithm become hyphens.
    """
    testset = re.sub(r'^(image_info|instances)_', '', Path(annotations).stem)
    clean = [re.sub(r'[^\w.-]|_', '-', part) for part in (testset, algorithm)]
    return folder / f'detections_{clean[0]}_{clean[1]}_results.zip'
