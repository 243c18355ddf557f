"""The highest memory of evaluating many images (for benchmark_eval.py --images).

Twice, in a process each: as ``eca-mmdet eval --analysis`` of a result file, and as the
metric of a training or test, which gets the same detections image by image. Both write
``metrics.json`` with its analysis.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from eval_data import CLASSES, SIDE

PATHS = ('eval', 'metric')
IMAGES_AT_ONCE = 1000


def measure(task: str, folder: Path, limit_gib: float) -> bool:
    """Print time and memory of both; tell whether they agree, below the limit.

    Args:
        task: 'bbox' or 'segm'.
        folder: with ``A.json`` and ``predictions.npz``.
        limit_gib: for each process.
    """
    size = write_result_file(task, folder)
    print(f'\n{task}: {size / 2**20:.0f} MiB of results')
    found = {path: start(path, task, folder) for path in PATHS}
    below = True
    for path, one in found.items():
        gib = one['mib'] / 1024
        below &= gib <= limit_gib
        print(
            f'  {path:<7}{one["seconds"]:7.1f} s, at most {one["mib"]:.0f} MiB: '
            f'{"below" if gib <= limit_gib else "ABOVE"} {limit_gib:g} GiB '
            f'({one["before_mib"]:.0f} MiB once everything was imported)'
        )
    (numbers, analysis), (others, shorter) = (found[path]['record'] for path in PATHS)
    same = numbers == others and shorter in (analysis, None)
    what = 'numbers and analysis' if shorter else 'numbers (no analysis in a training)'
    print(f'  the same {what} from both: {same}')
    return below and same


def write_result_file(task: str, folder: Path) -> int:
    """Write the detections as a COCO result file, and in parts; return its bytes."""
    path = folder / 'R.json'
    with open(path, 'w') as file:
        before = '['
        for number, part in enumerate(parts(task, folder)):
            np.savez(folder / f'part{number}.npz', **part)
            for entry in entries(task, part):
                file.write(before + json.dumps(entry))
                before = ','
        file.write(']')
    return path.stat().st_size


def parts(task: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the columns of ``predictions.npz`` for a thousand images at a time."""
    with np.load(folder / 'predictions.npz') as file:
        columns = {name: file[name] for name in file.files}
    counts = columns.pop('counts', None)
    if task == 'segm':
        edges = np.concatenate([[0], np.cumsum(columns['lengths'])])
    for start in range(0, int(columns['owner'].max()) + 1, IMAGES_AT_ONCE):
        at = np.searchsorted(columns['owner'], [start, start + IMAGES_AT_ONCE])
        part = {name: one[slice(*at)] for name, one in columns.items()}
        if task == 'segm':
            part['counts'] = counts[slice(*edges[at])]
        yield part


def entries(task: str, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield entries of a result file."""
    for image, sample in samples(task, part):
        found = {name: one for name, one in sample.items() if name != 'masks'}
        columns = (one.tolist() for one in found.values())
        masks = sample.get('masks') or [None] * len(sample['scores'])
        for (x1, y1, x2, y2), score, label, mask in zip(*columns, masks, strict=True):
            one = {'image_id': image, 'category_id': label, 'score': score}
            if mask is None:
                one['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            else:
                one['segmentation'] = {**mask, 'counts': mask['counts'].decode()}
            yield one


def samples(task: str, part: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield an image's id and its predictions, as a detector returns them."""
    import torch

    owner = part['owner']
    if task == 'segm':
        edges, raw = np.cumsum(part['lengths']).tolist(), part['counts'].tobytes()
        pieces = [raw[a:b] for a, b in zip([0, *edges[:-1]], edges, strict=True)]
    for image in range(int(owner[0]), int(owner[-1]) + 1):
        rows = slice(*np.searchsorted(owner, [image, image + 1]).tolist())
        found: dict[str, Any] = {
            'bboxes': torch.from_numpy(part['boxes'][rows].copy()),
            'scores': torch.from_numpy(part['scores'][rows].copy()),
            'labels': torch.from_numpy(part['labels'][rows].copy()),
        }
        if task == 'segm':
            found['masks'] = [
                {'size': list(SIDE), 'counts': piece} for piece in pieces[rows]
            ]
        yield image, found


def start(path: str, task: str, folder: Path) -> Any:
    """Measure one way in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, path, task, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    """Evaluate in this process, and print what it took as JSON."""
    path, task, name = sys.argv[1:] if argv is None else argv
    run = {'eval': evaluate_file, 'metric': evaluate_samples}[path]
    print(json.dumps(run(task, Path(name))))
    return 0


def evaluate_file(task: str, folder: Path) -> dict[str, Any]:
    """Run the command."""
    import eca_mmdet.evaluation.api  # noqa: F401 (as the command would)
    from eca_mmdet import cli

    before, began = highest_mib(), time.perf_counter()
    words = ['--ann', folder / 'A.json', '--results', folder / 'R.json', '--analysis']
    words += ['--types', task, '--out', folder / 'out']
    code = cli.main(['eval', *map(str, words)])
    assert code == 0
    record = json.loads((folder / 'out' / 'metrics.json').read_text())
    (analysis,) = record['analysis']
    return report(before, began, task, record, analysis)


def evaluate_samples(task: str, folder: Path) -> dict[str, Any]:
    """Do what a test loop does, and its hook."""
    import eca_mmdet

    eca_mmdet.registration.register()
    from eca_mmdet.evaluation.metric import CocoTableMetric
    from eca_mmdet.utils.io import write_json

    metric = CocoTableMetric(str(folder / 'A.json'), task)
    metric.dataset_meta = {'classes': tuple(f'c{i}' for i in range(CLASSES))}
    before, began = highest_mib(), time.perf_counter()
    images = 0
    for number in range(len(list(folder.glob('part*.npz')))):
        with np.load(folder / f'part{number}.npz') as file:
            part = {name: file[name] for name in file.files}
        for image, found in samples(task, part):
            sample = {'img_id': image, 'ori_shape': SIDE, 'pred_instances': found}
            metric.process({}, [sample])
            images += 1
    del part, found, sample
    metric.evaluate(images)
    assert metric.record is not None
    write_json(folder / 'metrics.json', metric.record)
    analysis = metric.analyze()
    write_json(folder / 'metrics.json', {**metric.record, 'analysis': [analysis]})
    record = json.loads((folder / 'metrics.json').read_text())
    return report(before, began, task, record, record['analysis'][0])


def report(
    before: float, began: float, task: str, record: Any, analysis: Any
) -> dict[str, Any]:
    """Return what was measured, and the numbers to compare."""
    return {
        'before_mib': before,
        'seconds': time.perf_counter() - began,
        'mib': highest_mib(),
        'record': [record['results'][task], analysis.get(task)],
    }


def highest_mib() -> float:
    """Return the highest resident size of this process so far.

    Not of ``getrusage``: there a process begins with the peak of the one that started
    it.
    """
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) / 1024


if __name__ == '__main__':
    sys.exit(main())
