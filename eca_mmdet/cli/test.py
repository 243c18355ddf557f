"""``eca-mmdet test``: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eca_mmdet.checkpoints.download import is_address
from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.datasets.detections import TASKS
from eca_mmdet.datasets.results import results_path, submission_path
from eca_mmdet.engine import config as launch
from eca_mmdet.engine import distributed as processes
from eca_mmdet.engine.preflight.model import evaluators
from eca_mmdet.engine.workers import ending_workers
from eca_mmdet.evaluation.bootstrap import subtract
from eca_mmdet.evaluation.coco_eval import COCO_METRICS, OWN_METRICS
from eca_mmdet.evaluation.tables import ap_table, render, rows_of
from eca_mmdet.utils.errors import UserError


def run(args: argparse.Namespace) -> int:
    """Check, test, print the table (the config's metric does) or JSON."""
    from eca_mmdet.engine.error_translation import told

    check_speed_options(args)
    if not is_address(args.checkpoint):
        read_checkpoint(args.checkpoint)  # before mmdet is loaded, which takes seconds
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    set_outputs(cfg, args)
    # With --json the metrics have stdout to themselves; logs go to stderr.
    logs = sys.stderr if args.json else sys.stdout
    with contextlib.redirect_stdout(logs), processes.job(cfg):
        launch.check(cfg, training=False)
        runner = launch.build_runner(cfg)
        launch.check_start(cfg, runner, exact=True)
        with told(runner), ending_workers(runner):
            metrics = run_fast(runner, args) if args.fast else runner.test()
    if args.json and launch.is_main_process():
        print(json.dumps(metrics, indent=1))
    return 0


def check_speed_options(args: argparse.Namespace) -> None:
    """Refuse --compile and --compare where they would mean nothing.

    Raises:
        UserError: they do.
    """
    if (args.compile or args.compare) and not args.fast:
        raise UserError('--compile and --compare go with --fast.')
    if args.compare and (args.save_results or args.format_only):
        raise UserError(
            '--compare evaluates twice and saves no detections: leave --save-results '
            'and --format-only to a run of their own.'
        )


def run_fast(runner: Any, args: argparse.Namespace) -> dict[str, float]:
    """Test at speed; with --compare test before it as well, and print both."""
    from eca_mmdet.inference.fast import FastTestHook

    hook = FastTestHook(args.compile)
    if not args.compare:
        runner.register_hook(hook, priority='LOWEST')
        return runner.test()  # type: ignore[no-any-return]
    seconds, exact = _timed(runner.test)
    _keep_metrics(runner)
    runner.register_hook(hook, priority='LOWEST')
    # The loop alone: the runner has been set up, and hooks prepare a run once.
    fast_seconds, metrics = _timed(runner.test_loop.run)
    runner.logger.info(comparison(exact, metrics))
    images = len(runner.test_dataloader.dataset)
    runner.logger.info(
        f'{images} images, reading and evaluation included: {seconds:.1f} s, '
        f'fast {fast_seconds:.1f} s'
    )
    return metrics


def _keep_metrics(runner: Any) -> None:
    """Set the float32 record aside, before that of --fast takes its name."""
    record = Path(runner.log_dir) / 'metrics.json'
    if launch.is_main_process() and record.is_file():
        record.rename(record.with_name('metrics_float32.json'))


def _timed(run: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    start = time.monotonic()
    metrics = run()
    return time.monotonic() - start, metrics


def comparison(exact: dict[str, float], fast: dict[str, float]) -> str:
    """Return a table of the metrics without and with --fast, and the difference.

    COCO's columns where ``CocoTableMetric`` counted them; a line for each number of
    another metric.
    """
    before, after = rows_of(exact), rows_of(fast)
    if not before:
        cells = [
            [name, f'{exact[name]:.4f}', f'{fast[name]:.4f}', f'{change:+.4f}']
            for name in sorted(exact.keys() & fast.keys())
            for change in [fast[name] - exact[name]]
        ]
        heading = ['', 'float32', 'fast', 'difference']
        return f'What --fast changes:\n{render(heading, cells, "table")}'
    rows, signed = {}, []
    for task in before:
        rows[f'{task}, float32'] = before[task]
        rows[f'{task}, fast'] = after[task]
        signed.append(f'{task}, difference')
        rows[signed[-1]] = subtract(before[task], after[task])
    return f'What --fast changes, 0-100:\n{ap_table(rows, signed=signed)}'


def set_outputs(cfg: Any, args: argparse.Namespace) -> None:
    """Apply --classwise, --save-results and --format-only to the COCO evaluators.

    Raises:
        UserError: there is none, a file is there already, or none can be written.
    """
    if args.format_only and not args.save_results:
        raise UserError('--format-only needs --save-results DIR, to write there.')
    if args.save_results == '':
        raise UserError('--save-results needs a folder; got an empty name.')
    if not (args.classwise or args.save_results):
        return
    known = OWN_METRICS if args.format_only else COCO_METRICS
    coco = [
        one
        for one in evaluators(cfg, 'test')
        if str(one.get('type')).rpartition('.')[2] in known
    ]
    if not coco:
        raise UserError(
            f'--classwise, --save-results and --format-only need one of the metrics '
            f'{", ".join(known)} as test_evaluator; {cfg.filename} has none.'
        )
    for index, one in enumerate(coco, 1):
        if args.classwise:
            one.classwise = True
        if args.save_results:
            many = f'-{index}' if len(coco) > 1 else ''
            prefix = Path(args.save_results) / f'{Path(cfg.filename).stem}{many}'
            _prepare(prefix, str(one.get('ann_file')))
            one.outfile_prefix, one.format_only = str(prefix), args.format_only


def _prepare(prefix: Path, annotations: str) -> None:
    """Make the folder for results; refuse to replace any, before the test."""
    for task in TASKS:
        zipped = submission_path(prefix.parent / task, annotations, prefix.name)
        for path in (results_path(prefix, task), zipped):
            if os.path.lexists(path):
                raise UserError(
                    f'{path} exists, and this command overwrites nothing. Remove it or '
                    'give --save-results another folder.'
                )
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=prefix.parent):
            pass
    except OSError as error:
        raise UserError(
            f'--save-results: nothing can be written to {prefix.parent}: {error}'
        ) from error
