"""Result files in COCO's format, and the evaluation server's zip."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.datasets.detections import Detections
from eca_mmdet.datasets.ground_truth import GroundTruth
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file

SERVER_LIMIT = 100
"""Detections an image that COCO's server takes."""


def results_path(prefix: str | Path, task: str) -> Path:
    """Return the file of one task, named as mmdet does: ``PREFIX.bbox.json``."""
    return Path(f'{prefix}.{task}.json')


def write_results(found: Detections, truth: GroundTruth, path: Path) -> None:
    """Write detections as a COCO result file, whole or not at all.

    Numbers are written so that reading them gives the same float64.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, open(partial, 'w') as file:
            before = '[\n'
            for entry in _entries(found, truth):
                file.write(before + json.dumps(entry, separators=(',', ':')))
                before = ',\n'
            file.write('\n]\n' if len(found) else '[]\n')
    except OSError as error:
        raise UserError(f'results cannot be written to {path}: {error}') from error


def _entries(found: Detections, truth: GroundTruth) -> Iterator[dict[str, Any]]:
    for index in range(len(found)):
        entry: dict[str, Any] = {
            'image_id': truth.image_ids[found.image[index]],
            'category_id': truth.category_ids[found.category[index]],
            'score': float(found.scores[index]),
        }
        # A mask's entry has no box: pycocotools would take the box's area for S, M, L.
        if found.boxes is not None:
            entry['bbox'] = found.boxes[index].tolist()
        if found.masks is not None:
            mask = found.masks[index]
            counts = mask['counts']
            text = counts.decode() if isinstance(counts, bytes) else counts
            entry['segmentation'] = {'size': list(mask['size']), 'counts': text}
        yield entry


def top_of_each_image(found: Detections, limit: int = SERVER_LIMIT) -> Detections:
    """Return the highest scores of each image, in the order they had."""
    order = np.lexsort((np.arange(len(found)), -found.scores, found.image))
    image = found.image[order]
    start = np.searchsorted(image, image, side='left')
    return found.take(np.sort(order[np.arange(len(found)) - start < limit]))


def server_name(annotations: str | Path, algorithm: str) -> str:
    """Return the name COCO's server asks for: ``detections_TESTSET_ALG_results``.

    Args:
        annotations: the annotation file, as image_info_test-dev2017.json.
        algorithm: what to call the detector; underscores become hyphens.
    """
    testset = re.sub(r'^(image_info|instances)_', '', Path(annotations).stem)
    clean = [re.sub(r'[^\w.-]|_', '-', part) for part in (testset, algorithm)]
    return f'detections_{clean[0]}_{clean[1]}_results'


def write_submission(
    found: Detections, truth: GroundTruth, folder: Path, algorithm: str
) -> Path:
    """Write the zip that COCO's evaluation server takes.

    It holds one JSON file of the same name without a folder, and of each image the 100
    highest scores (cocodataset.org, Upload).

    Args:
        found: detections of one task.
        truth: whose ``source`` is the annotation or image-info file.
        folder: where; the server's name is the same for boxes and masks, so that each
            needs a folder of its own.
        algorithm: as for :func:`server_name`.

    Returns:
        The zip.

    Raises:
        UserError: it cannot be written.
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
        raise UserError(f'{target} cannot be written: {error}') from error
    return target


def submission_path(folder: Path, annotations: str | Path, algorithm: str) -> Path:
    """Return the zip that :func:`write_submission` writes."""
    return folder / f'{server_name(annotations, algorithm)}.zip'
