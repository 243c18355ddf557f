"""Time and memory of COCO evaluation, ours beside mmdet's, in one run.

    python benchmarks/benchmark_eval.py [--boxes-images 5000] [--masks-images 2500]
    python benchmarks/benchmark_eval.py --images 50000 [--task segm] [--limit-gib 4]

Each side runs in a process of its own: it gets the same predictions, hands them to the
metric as a test loop does, and calls ``evaluate()``. Printed are the seconds of
``evaluate()``, the memory that it took beyond what was there before it (the highest
resident size of the process), and whether the numbers are equal: ours against
pycocotools' own, mmdet's against ours rounded as it rounds.

With ``--images`` ours alone, as a command and as a metric with the analysis that
``metrics.json`` has: seconds and the highest memory of the whole process, which is to
stay below the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from eval_data import CLASSES, SIDE, write_data
from eval_memory import measure

SIDES = ('ours', 'mmdet')


def main(argv: list[str] | None = None) -> int:
    """Run both sides, print the ratios; 1 if the numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--boxes-images', type=int, default=5000)
    parser.add_argument('--masks-images', type=int, default=2500)
    parser.add_argument('--detections', type=int, default=100, help='an image')
    parser.add_argument('--images', type=int, help='measure our memory for as many')
    parser.add_argument('--limit-gib', type=float, default=4.0)
    parser.add_argument(
        '--kinds',
        type=int,
        default=CLASSES,
        help='with --images: classes that an image has beside those of its objects',
    )
    parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument('--task', choices=('bbox', 'segm'), default='bbox')
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side:
        print(json.dumps(run_side(args.side, args.task, args.folder)))
        return 0
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores')
    if args.images:
        print(f'{args.images} images x {args.detections} detections')
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_data(args.images, args.detections, args.task, folder, args.kinds)
            return 0 if measure(args.task, folder, args.limit_gib) else 1
    equal = True
    for task, images in (('bbox', args.boxes_images), ('segm', args.masks_images)):
        with tempfile.TemporaryDirectory() as folder:
            equal &= compare(task, images, args.detections, Path(folder))
    return 0 if equal else 1


def compare(task: str, images: int, detections: int, folder: Path) -> bool:
    """Print both sides of one task; tell whether the numbers are equal."""
    write_data(images, detections, task, folder)
    found = {side: start_side(side, task, folder) for side in SIDES}
    print(f'\n{task}: {images} images x {detections} detections')
    for side, one in found.items():
        print(
            f'  {side:<6}{one["seconds"]:8.2f} s {one["mib"]:8.0f} MiB more '
            f'(process() {one["process_seconds"]:.2f} s, then {one["before_mib"]:.0f} '
            'MiB in all)'
        )
    ours, theirs = (found[side] for side in SIDES)
    print(
        f'  ratio: {theirs["seconds"] / ours["seconds"]:.1f} times faster, '
        f'{ours["mib"] / theirs["mib"]:.2f} of the memory'
    )
    print(
        f'  ours then splits the errors for metrics.json: '
        f'{ours["analysis_seconds"]:.2f} s, {ours["analysis_mib"]:.0f} MiB more'
    )
    exact = ours['metrics'] == theirs['reference']
    rounded = all(
        abs(ours['flat'][name] - value) <= 0.0005 + 1e-9
        for name, value in theirs['metrics'].items()
    )
    print(f'  the 12 numbers equal pycocotools, to the last bit: {exact}')
    print(f"  and mmdet's, which are rounded to 3 digits: {rounded}")
    return exact and rounded


def start_side(side: str, task: str, folder: Path) -> Any:
    """Run one side in a process of its own and return what it measured."""
    command = [sys.executable, __file__, '--side', side, '--task', task]
    done = subprocess.run(
        [*command, '--folder', str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_side(side: str, task: str, folder: Path) -> dict[str, Any]:
    """Measure one metric; of mmdet's side, also compute pycocotools' own numbers."""
    import eca_mmdet

    eca_mmdet.registration.register()
    from mmdet.evaluation.metrics import CocoMetric

    from eca_mmdet.evaluation.metric import CocoTableMetric

    samples = read_samples(task, folder)
    path = str(folder / 'A.json')
    with contextlib.redirect_stdout(io.StringIO()):
        if side == 'ours':
            metric = CocoTableMetric(path, task)
        else:
            metric = CocoMetric(path, task, proposal_nums=(1, 10, 100))
        metric.dataset_meta = {'classes': tuple(f'c{i}' for i in range(CLASSES))}
        start = time.perf_counter()
        for sample in samples:
            metric.process({}, [sample])
        process_seconds = time.perf_counter() - start
        count = len(samples)
        samples.clear()
        watch = MemoryWatch()
        start = time.perf_counter()
        flat = metric.evaluate(count)
        seconds = time.perf_counter() - start
        mib = watch.stop()
        result: dict[str, Any] = {
            'seconds': seconds,
            'process_seconds': process_seconds,
            'before_mib': watch.before,
            'mib': mib,
        }
        if side == 'ours':
            assert metric.record is not None
            result['flat'] = flat
            found = metric.record['results'][task]['metrics'].values()
            result['metrics'] = [-1 if one is None else one for one in found]
            watch = MemoryWatch()
            start = time.perf_counter()
            metric.analyze()
            result['analysis_seconds'] = time.perf_counter() - start
            result['analysis_mib'] = watch.stop()
        else:
            result['metrics'] = flat
            result['reference'] = pycocotools_numbers(task, folder)
    return result


def read_samples(task: str, folder: Path) -> list[dict[str, Any]]:
    """Return the predictions as a test loop hands them to a metric."""
    import torch

    with np.load(folder / 'predictions.npz') as file:
        columns = {name: file[name] for name in file.files}
    images = int(columns['owner'].max()) + 1
    starts = np.searchsorted(columns['owner'], np.arange(images + 1)).tolist()
    ends = np.cumsum(columns['lengths']).tolist() if task == 'segm' else []
    raw = columns['counts'].tobytes() if task == 'segm' else b''
    samples = []
    for image in range(images):
        rows = slice(starts[image], starts[image + 1])
        instances: dict[str, Any] = {
            'bboxes': torch.from_numpy(columns['boxes'][rows]),
            'scores': torch.from_numpy(columns['scores'][rows]),
            'labels': torch.from_numpy(columns['labels'][rows]),
        }
        if task == 'segm':
            instances['masks'] = [
                {'size': list(SIDE), 'counts': raw[ends[i - 1] if i else 0 : ends[i]]}
                for i in range(rows.start, rows.stop)
            ]
        samples.append(
            {'img_id': image, 'ori_shape': SIDE, 'pred_instances': instances}
        )
    return samples


def pycocotools_numbers(task: str, folder: Path) -> list[float]:
    """Return the 12 numbers of pycocotools, called as its documentation shows."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = []
    for sample in read_samples(task, folder):
        found = sample['pred_instances']
        columns = (found['bboxes'].tolist(), found['scores'].tolist())
        masks = found.get('masks') or [None] * len(columns[0])
        rows = zip(*columns, found['labels'].tolist(), masks, strict=True)
        for (x1, y1, x2, y2), score, label, mask in rows:
            one = {'image_id': sample['img_id'], 'category_id': label, 'score': score}
            if task == 'segm':
                one['segmentation'] = mask
            else:
                one['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            results.append(one)
    truth = COCO(str(folder / 'A.json'))
    evaluator = COCOeval(truth, truth.loadRes(results), task)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(one) for one in evaluator.stats]


class MemoryWatch:
    """The highest resident size of this process from now on, in MiB above now."""

    def __init__(self) -> None:
        self.before = self._resident()
        self._highest = self.before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return how much more there was at the highest."""
        self._done.set()
        self._thread.join()
        return max(self._highest, self._resident()) - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._highest = max(self._highest, self._resident())

    @staticmethod
    def _resident() -> float:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


if __name__ == '__main__':
    sys.exit(main())
