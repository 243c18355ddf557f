"""Compare an exported detector with its checkpoint on the config's validation images.

    python benchmarks/compare_onnx.py CONFIG CHECKPOINT FILE.onnx ... [--limit N]

Both find objects through their ``predict``, each with its own reading, resizing and
pasting; COCO's AP of both is counted by pycocotools.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.evaluation.tables import render
from eca_mmdet.export import OnnxDetector
from eca_mmdet.inference.detector import ECADetector
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import UserError, shown

NEAR_PX = 1.0
"""Objects of the same class whose boxes are this near in every side are one."""


def main(argv: list[str] | None = None) -> int:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('files', nargs='+', metavar='FILE.onnx')
    parser.add_argument('--limit', type=int, help='images (default: all)')
    args = parser.parse_args(argv)
    try:
        compare(args.config, args.checkpoint, args.files, args.limit)
    except UserError as error:
        print(shown(error), file=sys.stderr)
        return 2
    return 0


def compare(
    config: str, checkpoint: str, files: Sequence[str], limit: int | None
) -> None:
    """Print how far each file is from the checkpoint."""
    detector = ECADetector.from_checkpoint(checkpoint, config, 'cpu')
    dataset = detector.cfg.test_dataloader.dataset
    root = Path(dataset.data_root)
    truth, folder = root / dataset.ann_file, root / dataset.data_prefix.img
    images = _images(truth)[:limit]
    paths = [folder / one['file_name'] for one in images]
    wanted = [detector.predict(path) for path in paths]
    rows = [['checkpoint', *_counts(wanted), *[''] * 4, *_ap(truth, images, wanted)]]
    for file in files:
        exported = OnnxDetector(file)
        found = [exported.predict(path) for path in paths]
        rows.append(
            [file, *_counts(found), *_apart(wanted, found), *_ap(truth, images, found)]
        )
    heading = ['', 'objects', 'only one', 'box, px', 'score', 'mask pixels']
    heading += ['box AP', 'mask AP']
    print(f'{len(images)} images of {truth}; largest differences of what both find')
    print(render(heading, rows, 'table'))


def _images(truth: Path) -> list[dict[str, Any]]:
    from eca_mmdet.datasets.coco import read_annotations

    return list(read_annotations(truth).content['images'])


def _counts(found: Sequence[Prediction]) -> list[str]:
    return [str(sum(map(len, found)))]


def _apart(wanted: Sequence[Prediction], found: Sequence[Prediction]) -> list[str]:
    """Return objects of one alone, and the largest differences of the others."""
    alone, boxes, scores, pixels, area = 0, 0.0, 0.0, 0, 0
    for one, other in zip(wanted, found, strict=True):
        pairs = _pairs(one, other)
        alone += len(one) + len(other) - 2 * len(pairs)
        for a, b in pairs:
            boxes = max(boxes, float(np.abs(one.boxes[a] - other.boxes[b]).max()))
            scores = max(scores, float(abs(one.scores[a] - other.scores[b])))
            if one.masks is not None and other.masks is not None:
                pixels += int((one.masks[a] != other.masks[b]).sum())
                area += int(one.masks[a].sum())
    masks = f'{pixels} of {area}' if area else 'n/a'
    return [str(alone), f'{boxes:.1e}', f'{scores:.1e}', masks]


def _pairs(one: Prediction, other: Prediction) -> list[tuple[int, int]]:
    """Match objects of the same class, by the nearest score among the near boxes."""
    free, pairs = set(range(len(other))), []
    for a in range(len(one)):
        near = [
            b
            for b in free
            if one.labels[a] == other.labels[b]
            and np.abs(one.boxes[a] - other.boxes[b]).max() < NEAR_PX
        ]
        if near:
            best = min(near, key=lambda b: abs(one.scores[a] - other.scores[b]))
            free.remove(best)
            pairs.append((a, best))
    return pairs


def _ap(
    truth: Path, images: Sequence[dict[str, Any]], found: Sequence[Prediction]
) -> list[str]:
    """Return box and mask AP, 0-100, by pycocotools."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    numbers = []
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        ids = coco.getCatIds()
        entries = [
            entry
            for image, one in zip(images, found, strict=True)
            for entry in one.to_coco(image['id'], ids)
        ]
        masks = any(one.masks is not None for one in found)
        for task in ('bbox', 'segm') if masks else ('bbox',):
            run = COCOeval(coco, coco.loadRes(entries), task)
            run.params.imgIds = [image['id'] for image in images]
            run.evaluate()
            run.accumulate()
            run.summarize()
            numbers.append(f'{100 * run.stats[0]:.2f}')
    return [*numbers, *['n/a'] * (2 - len(numbers))]


if __name__ == '__main__':
    sys.exit(main())
