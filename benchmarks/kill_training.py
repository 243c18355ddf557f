"""Kill a training at random moments until it is done; compare it with one left alone.

The demo's detector is trained on the CPU on generated shapes, twice with the same seed:
once undisturbed, and once killed (SIGKILL, with all its processes) after random times
and continued with ``--resume``. Every tensor of the two last checkpoints must be equal
bit for bit, and so must the metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.datasets.shapes import write_shapes

CONFIG = 'mask-rcnn_eca-r18-w16_fpn_shapes'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=60, help='default: 60')
    parser.add_argument('--workers', type=int, default=1, help='default: 1')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    return parser.parse_args(argv)


def command(work: Path, data: Path, args: argparse.Namespace) -> list[str]:
    """Return the words of a training with a checkpoint every few steps."""
    entries = {
        'train_cfg.max_iters': args.steps,
        'train_cfg.val_interval': args.steps // 2,
        'param_scheduler.0.end': args.steps // 4,
        'param_scheduler.1.begin': args.steps // 4,
        'param_scheduler.1.T_max': args.steps - args.steps // 4,
        'default_hooks.checkpoint.interval': max(1, args.steps // 20),
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': args.workers,
        'train_dataloader.persistent_workers': args.workers > 0,
        'val_evaluator.ann_file': f'{data}/annotations/val.json',
    }
    for loader in ('train', 'val'):
        entries[f'{loader}_dataloader.dataset.data_root'] = f'{data}/'
    options = [f'{key}={value}' for key, value in entries.items()]
    words = [sys.executable, '-m', 'eca_mmdet.cli', 'train', CONFIG]
    return [*words, '--work-dir', str(work), '--resume', '--cfg-options', *options]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """Start a training in a process group of its own."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)


def steps_of(work: Path) -> int:
    """Return how far the last checkpoint is."""
    steps = [int(path.stem.rpartition('_')[2]) for path in work.glob('iter_*.pth')]
    return max(steps, default=0)


def train_and_kill(words: list[str], work: Path, chance: random.Random) -> list[float]:
    """Kill and resume until a training ends by itself; return the times of the kills.

    A time is drawn up to twenty seconds; one that was too short for the next checkpoint
    is followed by longer ones, so that it ends.
    """
    kills: list[float] = []
    patience = 20.0
    while True:
        before = steps_of(work)
        process = start(words)
        seconds = chance.uniform(0, patience)
        try:
            if process.wait(seconds):
                raise SystemExit(f'the training failed by itself: {words}')
            return kills
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kills.append(round(seconds, 1))
        patience *= 1.0 if steps_of(work) > before else 1.1
        print(
            f'killed after {seconds:.1f} s, {steps_of(work)} steps are kept', flush=True
        )


def ending(work: Path, steps: int) -> tuple[dict[str, torch.Tensor], Any]:
    """Return weights and metrics of a training that has ended."""
    metrics = max(work.glob('*/metrics.json'))
    state = read_weights(work / f'iter_{steps}.pth').state
    return state, json.loads(metrics.read_text())['results']


def main(argv: list[str] | None = None) -> int:
    """Train twice and compare; 1 if anything differs."""
    args = parse_args(argv)
    os.environ['OMP_NUM_THREADS'] = '1'  # sums in one order
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_shapes(root / 'data', sizes={'train': 16, 'val': 4}, side=96)
        begin = time.monotonic()
        if start(command(root / 'alone', data, args)).wait():
            raise SystemExit('the undisturbed training failed')
        alone = time.monotonic() - begin
        words = command(root / 'killed', data, args)
        kills = train_and_kill(words, root / 'killed', random.Random(args.seed))
        expected, metrics = ending(root / 'alone', args.steps)
        found, found_metrics = ending(root / 'killed', args.steps)
        partial = [*root.rglob('*.partial')]
    other = [key for key in expected if not torch.equal(expected[key], found[key])]
    print(
        f'{args.steps} steps, {alone:.0f} s left alone; killed {len(kills)} times: '
        f'{len(other)} of {len(expected)} tensors differ, metrics '
        f'{"equal" if metrics == found_metrics else "DIFFER"}, '
        f'{len(partial)} half-written files left'
    )
    return int(bool(other or partial) or metrics != found_metrics)


if __name__ == '__main__':
    sys.exit(main())
