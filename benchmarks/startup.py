"""Start-up of a training on a dataset of COCO's size, beside mmdet's own train.py.

    python benchmarks/startup.py [--small] [--data FOLDER] [PART ...]

Generates annotations like COCO's train2017 (118,287 images, 860,001 objects with
polygons, 499 MB; the images are hard links to three JPEGs), and deletes them afterwards
unless ``--data`` names their folder. ``--small`` writes a tenth. Each part runs in a
process of its own, and prints CPU time and peak memory:

* ``train``: to the first logged step of a Mask R-CNN on small images, without workers,
  with two workers, and with two processes; ours without and with the cached index.
* ``data check``: with ``--images``.
* ``predict``: one image from a cold start, beside the import of mmdet.
* ``eval``: 5,000 images by ``benchmarks/eval.py``, which also measures 50,000.

Memory is the highest sum over a part's processes of their proportional set size (PSS),
in which a page that N processes share counts 1/N for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import mmdet
import numpy as np

from eca_mmdet.catalog.configs import resolve_config
from eca_mmdet.utils.io import whole_file

COUNTS = {'train': (118_287, 860_001), 'val': (5_000, 36_781)}
"""Images and objects of COCO's splits of 2017."""

STOCK = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
CONFIGS = {
    'stock': (
        'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'CocoDataset',
    ),
    'ours': (str(resolve_config('mask-rcnn_r50_fpn_4xb2-1x_coco')), ''),
}
POLL_SECONDS = 0.25


class Cost(NamedTuple):
    """CPU seconds of a command with its children, and their peak memory."""

    seconds: float
    mib: float

    def over(self, other: Cost) -> str:
        """Return both ratios to another cost as text."""
        return f'{self.seconds / other.seconds:.2f}, {self.mib / other.mib:.2f}'


def main(argv: list[str] | None = None) -> int:
    """Print the table of the parts asked for."""
    parts = {
        'train': train, 'data check': check_data, 'predict': predict, 'eval': evaluate
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('parts', nargs='*', default=parts, metavar='PART',
                        help=f'{", ".join(parts)} (default: all)')  # fmt: skip
    parser.add_argument('--small', action='store_true', help='a tenth of the size')
    parser.add_argument('--data', type=Path, metavar='FOLDER',
                        help='folder to keep the generated data in')  # fmt: skip
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(parts):
        parser.error(f'unknown parts: {", ".join(sorted(unknown))}')
    with contextlib.ExitStack() as stack:
        data = args.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        share = 10 if args.small else 1
        for split, (images, objects) in COUNTS.items():
            write_split(data, split, images // share, objects // share)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ['ECA_MMDET_CACHE'] = str(work / 'indexes')
        for part in args.parts:
            parts[part](data, work)
    return 0


def train(data: Path, work: Path) -> None:
    """Compare the first step of a training with mmdet's train.py.

    That cannot start several processes without a GPU.
    """
    for workers in (0, 2):
        stock = first_step('stock', data, work, workers)
        show(f'train.py of mmdet, {workers} workers', stock)
        forget_indexes()
        for state in ('first start', 'index cached'):
            ours = first_step('ours', data, work, workers)
            show(f'eca-mmdet train, {state}', ours, stock)
    show('eca-mmdet train, 2 processes', first_step('ours', data, work, processes=2))


def first_step(
    which: str, data: Path, work: Path, workers: int = 0, processes: int = 1
) -> Cost:
    """Train for one step on small images; resizing to 1333x800 would hide the rest."""
    base, dataset = CONFIGS[which]
    config = work / f'{which}.py'
    config.write_text(config_text(base, data, workers, dataset))
    command = [str(STOCK)] if which == 'stock' else ['-m', 'eca_mmdet.cli', 'train']
    launcher = [sys.executable]
    more = ['--work-dir', str(work / which)]
    if processes > 1:
        launcher += ['-m', 'torch.distributed.run', '--standalone',
                     f'--nproc-per-node={processes}']  # fmt: skip
        more += ['--launcher', 'pytorch']
    return run([*launcher, *command, str(config), *more])


def config_text(base: str, data: Path, workers: int, dataset: str) -> str:
    """Return a config of one step on the generated data."""
    kind = f"type='{dataset}', " if dataset else ''
    loaders = ''.join(
        f'{name}_dataloader = dict(num_workers={workers}, '
        f'persistent_workers={workers > 0}, dataset=dict({kind}'
        f"data_root={str(data)!r}, ann_file='annotations/instances_{split}.json', "
        f"data_prefix=dict(img='{split}/')"
        + (', pipeline=train_pipeline' if name == 'train' else '')
        + '))\n'
        for name, split in (('train', 'train'), ('val', 'val'), ('test', 'val'))
    )
    return f"""\
_base_ = {base!r}
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
{loaders}
val_evaluator = dict(ann_file={str(data)!r} + '/annotations/instances_val.json')
test_evaluator = val_evaluator
model = dict(backbone=dict(init_cfg=None))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1, val_begin=9)
param_scheduler = []
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=False, interval=9, save_last=False),
)
"""


def forget_indexes() -> None:
    """Delete cached indexes."""
    shutil.rmtree(os.environ['ECA_MMDET_CACHE'], ignore_errors=True)


def check_data(data: Path, work: Path) -> None:
    """Check annotations and images."""
    forget_indexes()
    show('data check --images', run([
        sys.executable, '-m', 'eca_mmdet.cli', 'data', 'check',
        str(data / 'annotations' / 'instances_train.json'),
        '--images', str(data / 'train'),
    ]))  # fmt: skip


def predict(data: Path, work: Path) -> None:
    """Compare a prediction with the import of mmdet."""
    run([sys.executable, '-m', 'eca_mmdet.cli', 'demo', '--quick',
         '--out', str(work / 'demo')])  # fmt: skip
    checkpoint = max((work / 'demo').rglob('*.pth'), key=os.path.getmtime)
    image = min((work / 'demo' / 'data').rglob('*.png'))
    imports = run([sys.executable, '-c', 'import mmdet.apis'])
    show('import mmdet.apis', imports)
    show('eca-mmdet predict, one image', run([
        sys.executable, '-m', 'eca_mmdet.cli', 'predict', str(checkpoint), str(image),
        '--out', str(work / 'predicted'),
    ]), imports)  # fmt: skip


def evaluate(data: Path, work: Path) -> None:
    """Compare ``eca-mmdet eval`` with hotcoco alone."""
    script = Path(__file__).with_name('eval.py')
    subprocess.run([sys.executable, str(script), '--images', '5000'], check=True)


def show(name: str, cost: Cost, beside: Cost | None = None) -> None:
    """Print a row: CPU seconds, MiB, and their ratios to another row's."""
    ratios = '' if beside is None else f'   x {cost.over(beside)}'
    print(
        f'{name:<42}{cost.seconds:8.1f} s CPU {cost.mib:8,.0f} MiB{ratios}', flush=True
    )


def run(command: list[str]) -> Cost:
    """Run a command on one thread a process, and measure it with its children."""
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        peak = 0.0
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, sum(map(pss_mib, (child.pid, *descendants(child.pid)))))
            time.sleep(POLL_SECONDS)
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        if child.returncode:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-4000:])
            raise SystemExit(f'{" ".join(command)} ended with {child.returncode}')
    usage = ended[2]
    return Cost(usage.ru_utime + usage.ru_stime, peak)


def descendants(process: int) -> Iterator[int]:
    """Yield the ids of a process's children, theirs, and so on."""
    for path in Path(f'/proc/{process}/task').glob('*/children'):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from descendants(child)


def pss_mib(process: int) -> float:
    """Return the proportional set size of a process; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{process}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss:'):
                return int(line.split()[1]) / 1024
    return 0.0


def write_split(data: Path, split: str, images: int, objects: int) -> None:
    """Write an annotation file and its images, unless they are there."""
    path = data / 'annotations' / f'instances_{split}.json'
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(data / split, ignore_errors=True)
    link_images(data / split, images)
    with whole_file(path) as partial, open(partial, 'w') as file:
        write_annotations(file, images, objects)


def link_images(folder: Path, images: int) -> None:
    """Write three JPEGs of 640x480 pixels, and hard links to them."""
    import cv2

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    sources = []
    for number in range(3):
        small = draw.integers(0, 256, (12, 16, 3), np.uint8)
        sources.append(folder / name_of(number))
        cv2.imwrite(str(sources[-1]), cv2.resize(small, (640, 480)))
    for number in range(3, images):
        os.link(sources[number % 3], folder / name_of(number))


def name_of(image: int) -> str:
    """Return the file name of an image, as COCO's are."""
    return f'{image + 1:012d}.jpg'


def write_annotations(file: IO[str], images: int, objects: int) -> None:
    """Write objects of 26 points on average, ten thousand at a time."""
    from mmdet.datasets import CocoDataset

    draw = np.random.default_rng(1)
    heads = [
        {'license': 1, 'file_name': name_of(image), 'height': 480, 'width': 640,
         'date_captured': '2013-11-14 17:02:52', 'id': image + 1}
        for image in range(images)
    ]  # fmt: skip
    classes = [
        {'supercategory': 'thing', 'id': index + 1, 'name': name}
        for index, name in enumerate(CocoDataset.METAINFO['classes'])
    ]
    file.write(f'{{"info": {{}}, "images": {json.dumps(heads)}, ')
    file.write(f'"categories": {json.dumps(classes)}, "annotations": [')
    for start in range(0, objects, 10_000):
        count = min(10_000, objects - start)
        image = draw.integers(1, images + 1, count).tolist()
        category = draw.integers(1, len(classes) + 1, count).tolist()
        corner = draw.uniform(0, (500, 340), (count, 2)).round(2)
        size = draw.uniform(8, 130, (count, 2)).round(2)
        points = draw.integers(6, 47, count)
        entries = []
        for at in range(count):
            angle = np.linspace(0, 2 * np.pi, points[at], endpoint=False)
            rim = np.stack([np.cos(angle), np.sin(angle)], 1) / 2 + 0.5
            outline = (corner[at] + rim * size[at]).round(2)
            width, height = size[at].tolist()
            entries.append({
                'segmentation': [outline.ravel().tolist()],
                'area': round(width * height * np.pi / 4, 4), 'iscrowd': 0,
                'image_id': image[at], 'bbox': [*corner[at].tolist(), width, height],
                'category_id': category[at], 'id': start + at + 1,
            })  # fmt: skip
        file.write((', ' if start else '') + json.dumps(entries)[1:-1])
    file.write(']}')


if __name__ == '__main__':
    sys.exit(main())
