"""Result files: read, a part at a time, and written; the evaluation server's zip."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eca_mmdet.datasets.detections import (
    FIELDS,
    TASKS,
    Detections,
    PlainEntry,
    detections_of,
    plain_detections,
)
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.datasets.masks import Rles
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import read_json, whole_file

SERVER_LIMIT = 100
"""Detections an image that COCO's server takes."""

BLOCK = 1 << 22
"""Bytes read at a time, about 30,000 detections."""

_PLAIN = msgspec.json.Decoder(list[PlainEntry])
_SPACE = b' \t\n\r'
_MOST_SPACE = 99
"""Bytes between two entries."""
_TRIES = 9
"""Places where a text is cut, from the end on."""


@dataclass(frozen=True)
class Results:
    """Detections of a result file by task, its hash, and notes for the user."""

    found: dict[str, Detections]
    sha256: str
    notes: tuple[str, ...]


def read_results(
    path: str | Path, truth: GroundTruth, tasks: Sequence[str] | None = None
) -> Results:
    """Read a COCO result file: a JSON list of one object per detection.

    ``tasks`` are of 'bbox' and 'segm'; None takes those whose field every entry has. A
    file of masks only gives boxes too if 'bbox' is asked for.

    Raises:
        UserError: the file is of another kind, or has entries that cannot be right; the
            first of them and their number are named.
    """
    try:
        return _read_batches(Path(path), truth, tasks)
    except (NotStreamableError, UserError):  # counted over the whole file below
        entries, sha256, _ = read_json(path, 'result file')
    found = detections_of(entries, truth, str(path), tasks)
    having = {task: _having(entries, task) for task in TASKS}
    return Results(found, sha256, _notes(path, having, len(entries), tasks))


def _read_batches(
    path: Path, truth: GroundTruth, tasks: Sequence[str] | None
) -> Results:
    """Read a file without faults; raise NotStreamableError or UserError for others."""
    parts: list[dict[str, Detections]] = []
    total = 0
    wanted, having = list(tasks or TASKS), dict.fromkeys(TASKS, 0)
    batches = EntryBatches(path)
    for entries in batches:
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
    notes = _notes(path, having, total, tasks)
    return Results(found, batches.sha256, notes)


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


@dataclass
class EntryBatches:
    """The entries of a JSON list of objects; the hash is known once all are read."""

    path: Path
    sha256: str = field(default='', init=False)

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield lists of ``PlainEntry`` or dict, or raise NotStreamableError."""
        if not self.path.is_file():  # a pipe can be read once
            raise NotStreamableError
        digest = hashlib.sha256()
        rest = b''
        try:
            with open(self.path, 'rb') as file:
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
        self.sha256 = digest.hexdigest()


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
            before = '[\n'
            for row in range(len(found)):
                entry = result_entry(found, truth, row)
                file.write(before + json.dumps(entry, separators=(',', ':')))
                before = ',\n'
            file.write('\n]\n' if len(found) else '[]\n')
    except OSError as error:
        raise UserError(
            f'results cannot be written to {path}: {error}', code='file-not-written'
        ) from error


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


def server_name(annotations: str | Path, algorithm: str) -> str:
    """Return the name COCO's server asks for: ``detections_TESTSET_ALG_results``.

    The test set is part of an annotation file's name, e.g.
    image_info_test-dev2017.json. Underscores of the algorithm become hyphens.
    """
    testset = re.sub(r'^(image_info|instances)_', '', Path(annotations).stem)
    clean = [re.sub(r'[^\w.-]|_', '-', part) for part in (testset, algorithm)]
    return f'detections_{clean[0]}_{clean[1]}_results'


def write_submission(
    found: Detections, truth: GroundTruth, folder: Path, algorithm: str
) -> Path:
    """Write the zip that COCO's evaluation server takes.

    It holds one JSON file of the same name without a folder, and of each image the 100
    highest scores (cocodataset.org, Upload). The server's name is the same for boxes
    and masks, so that each needs a ``folder`` of its own.
    """
    target = submission_path(folder, truth.source, algorithm)
    best = top_of_each_image(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory() as place,
            whole_file(target) as partial,
            zipfile.ZipFile(partial, 'w', zipfile.ZIP_DEFLATED) as archive,
        ):
            plain = Path(place) / f'{target.stem}.json'
            write_results(best, truth, plain)
            archive.write(plain, plain.name)
    except OSError as error:
        raise UserError(
            f'{target} cannot be written: {error}', code='file-not-written'
        ) from error
    return target


def submission_path(folder: Path, annotations: str | Path, algorithm: str) -> Path:
    """Return the zip that :func:`write_submission` writes."""
    return folder / f'{server_name(annotations, algorithm)}.zip'
