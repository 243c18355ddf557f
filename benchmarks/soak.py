"""Train, test, evaluate, predict and report in one process, and watch what it holds.

    python benchmarks/soak.py [--minutes 30] [--out FILE.json]

A round trains a tiny detector on generated shapes, tests the checkpoint, evaluates its
detections, draws, measures its gates, writes the page, and gives some commands what
they refuse; detectors and numbers of data loader workers take turns. Between rounds
memory, open files, processes and more are measured. Exit code 1 if something grows
after the warm-up, which is the first quarter. Ctrl-C ends it early.

Between rounds mmengine's loggers, visualizers and message hubs are let go: it keeps
those of every run by name, with their open log files, until the process ends. The
commands have one run in a process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from footprint import LEAST_ROUNDS, judge, managers, measure

from eca_mmdet import ECADetector, cli
from eca_mmdet.catalog.configs import resolve_config
from eca_mmdet.datasets.shapes import write_shapes
from eca_mmdet.utils.io import whole_file

CONFIGS = (
    'mask-rcnn_eca-r18-w16_fpn_shapes',
    'faster-rcnn_eca-r18-w16_fpn_shapes',
    'retinanet_eca-r18-w16_fpn_shapes',
)
WORKERS = (0, 1, 2, 0)
"""Data loader workers, by round. Twelve rounds have all pairs with a detector."""

IMAGES = {'train': 6, 'val': 3}
SIDE_PX, STEPS = 96, 4
LIMIT_MIB_PER_HOUR = 20.0


def main(argv: list[str] | None = None) -> int:
    """Run rounds until the time is over; 1 if something grew."""
    args = parse_args(argv)
    rows: list[dict[str, float]] = []
    start = time.monotonic()
    with own_folder() as root, contextlib.suppress(KeyboardInterrupt):
        data = write_shapes(root / 'data', sizes=IMAGES, side=SIDE_PX)
        while time.monotonic() - start < args.minutes * 60:
            soak_round(len(rows), root / 'work', data)
            row = {'round': len(rows), 'seconds': time.monotonic() - start}
            rows.append(row | measure(root / 'tmp'))
            forget_runs()
            shutil.rmtree(root / 'work')
            print(as_line(rows[-1], heading=len(rows) % 20 == 1), flush=True)
    return conclude(rows, args)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=30)
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='all figures')
    parser.add_argument(
        '--limit',
        type=float,
        default=LIMIT_MIB_PER_HOUR,
        metavar='MIB',
        help='an hour that memory may grow (default: %(default)g)',
    )
    return parser.parse_args(argv)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Yield a folder, with temporary files and the current folder inside it."""
    before, folder = os.getcwd(), os.environ.get('TMPDIR')
    with tempfile.TemporaryDirectory(prefix='soak-') as name:
        temporary = Path(name) / 'tmp'
        temporary.mkdir()
        os.environ['TMPDIR'] = tempfile.tempdir = str(temporary)
        os.chdir(temporary)  # a file left in the current folder counts as well
        try:
            yield Path(name)
        finally:
            os.chdir(before)
            tempfile.tempdir = None
            os.environ.pop('TMPDIR')
            if folder is not None:
                os.environ['TMPDIR'] = folder


def soak_round(number: int, work: Path, data: Path) -> None:
    """Run every command once.

    Raises:
        RuntimeError: one ended with another exit code than it should.
        KeyboardInterrupt: one was interrupted.
    """
    work.mkdir()
    config = resolve_config(CONFIGS[number % len(CONFIGS)])
    options = settings(data, WORKERS[number % len(WORKERS)])
    train, results = work / 'train', work / 'results'
    checkpoint = train / f'iter_{STEPS}.pth'
    annotations = data / 'annotations' / 'val.json'
    run('train', config, '--work-dir', train, *options)
    run('test', config, checkpoint, '--work-dir', work / 'test', '--save-results',
        results, *options)  # fmt: skip
    run('eval', '--ann', annotations, '--results', *sorted(results.glob('*.json'))[:1],
        '--analysis', '--out', work / 'eval')  # fmt: skip
    run('predict', checkpoint, data / 'val', '--cam', '--out', work / 'predict')
    run('gates', checkpoint, '--images', data / 'val', '--out', work / 'gates')
    run('report', train, '--out', work / 'report.html')
    run('weights', 'inspect', checkpoint)
    run('data', 'check', annotations, '--images', data / 'val')
    predict(checkpoint, data / 'val')
    refuse(config, checkpoint, work, options)


def settings(data: Path, workers: int) -> list[str]:
    """Return options for a few steps on small data."""
    options = [
        f'train_cfg.max_iters={STEPS}',
        f'train_cfg.val_interval={STEPS // 2}',
        f'default_hooks.checkpoint.interval={STEPS}',
        'default_hooks.logger.interval=1',
        'param_scheduler=None',
        'train_dataloader.batch_size=2',
    ]
    for loader in ('train', 'val', 'test'):
        options += [
            f'{loader}_dataloader.dataset.data_root={data}/',
            f'{loader}_dataloader.num_workers={workers}',
            f'{loader}_dataloader.persistent_workers={workers > 0}',
        ]
    file = data / 'annotations' / 'val.json'
    options += [f'{one}_evaluator.ann_file={file}' for one in ('val', 'test')]
    return ['--cfg-options', *options]


def refuse(config: Path, checkpoint: Path, work: Path, options: list[str]) -> None:
    """Give commands files that are not there, or cut off."""
    cut = work / 'cut.pth'
    cut.write_bytes(checkpoint.read_bytes()[:9999])
    missing = work / 'missing'
    run('test', config, cut, *options, expected=2)
    run('predict', cut, missing, expected=2)
    run('eval', '--ann', cut, '--results', cut, expected=2)
    run('train', config, '--work-dir', missing, *options,
        f'train_dataloader.dataset.data_root={missing}/', expected=2)  # fmt: skip


def predict(checkpoint: Path, images: Path) -> None:
    """Use a detector from Python, from files and from an array."""
    detector = ECADetector.from_checkpoint(checkpoint)
    found = detector.predict(sorted(images.iterdir()))
    detector.predict(found[0].image)
    detector.cam(found[0].image, score_thr=0.0)


def run(*words: object, expected: int = 0) -> None:
    """Run a command in this process; what it prints is shown if it fails."""
    with (
        tempfile.TemporaryFile('w+', encoding='utf-8') as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        code = cli.main([str(word) for word in words])
        output.seek(0)
        told = output.read()
    if code == 130:
        raise KeyboardInterrupt
    if code != expected:
        raise RuntimeError(
            f'eca-mmdet {" ".join(map(str, words))}: expected exit code {expected}, '
            f'got {code}:\n{told[-2000:]}'
        )


def forget_runs() -> None:
    """Close and drop what mmengine keeps of each run by its name."""
    for kind in managers():
        for one in kind._instance_dict.values():  # type: ignore[attr-defined]
            for handler in getattr(one, 'handlers', ()):
                handler.close()
        kind._instance_dict.clear()  # type: ignore[attr-defined]


def as_line(row: dict[str, float], heading: bool) -> str:
    """Return a line of the table of rounds, below the names of the columns."""
    names = ' '.join(f'{name:>11}' for name in row)
    line = ' '.join(
        f'{value:11.1f}' if name.endswith('mib') else f'{value:11.0f}'
        for name, value in row.items()
    )
    return f'{names}\n{line}' if heading else line


def conclude(rows: list[dict[str, float]], args: argparse.Namespace) -> int:
    """Print what grew, and write the figures."""
    machine = f'{platform.machine()}, {os.cpu_count()} cores'
    print(f'\n{len(rows)} rounds on {machine}')
    if len(rows) < LEAST_ROUNDS:
        print(f'too few to judge: {LEAST_ROUNDS} are needed')
        return 1
    verdicts = judge(rows, args.limit)
    for one in verdicts:
        print(f'  {"GREW" if one.grew else "ok":<5}{one.name:<12} {one.text}')
    grew = [one.name for one in verdicts if one.grew]
    print(f'grew: {", ".join(grew)}' if grew else 'nothing grew')
    if args.out:
        told = [vars(one) for one in verdicts]
        record = {'machine': machine, 'verdicts': told, 'rounds': rows}
        with whole_file(args.out) as partial:
            partial.write_text(json.dumps(record, indent=1) + '\n')
    return 1 if grew else 0


if __name__ == '__main__':
    sys.exit(main())
