"""``eca-mmdet test``: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from eca_mmdet import launch
from eca_mmdet.errors import UserError
from eca_mmdet.evaluation.detections import TASKS
from eca_mmdet.evaluation.results_file import results_path
from eca_mmdet.weights.detector import read_detector
from eca_mmdet.weights.fetch import is_address

_COCO_METRICS = ('CocoTableMetric', 'V1CocoMetric', 'CocoMetric')


def run(args: argparse.Namespace) -> int:
    """Check, test, print the table (the config's metric does) or JSON."""
    if not is_address(args.checkpoint):
        read_detector(args.checkpoint)  # before mmdet is loaded, which takes seconds
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    set_outputs(cfg, args)
    # With --json the metrics have stdout to themselves; logs go to stderr.
    logs = sys.stderr if args.json else sys.stdout
    with contextlib.redirect_stdout(logs):
        launch.check(cfg, training=False)
        runner = launch.build_runner(cfg)
        launch.check_start(cfg, runner, exact=True)
        metrics = runner.test()
    if args.json and launch.is_main_process():
        print(json.dumps(metrics, indent=1))
    return 0


def set_outputs(cfg: Any, args: argparse.Namespace) -> None:
    """Apply --classwise, --save-results and --format-only to the COCO evaluators.

    Raises:
        UserError: there is none, or a result file exists.
    """
    if args.format_only and not args.save_results:
        raise UserError('--format-only needs --save-results DIR, to write there.')
    if not (args.classwise or args.save_results):
        return
    evaluators = cfg.get('test_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    coco = [one for one in evaluators if str(one.get('type')).endswith(_COCO_METRICS)]
    if not coco:
        raise UserError(
            f'--classwise, --save-results and --format-only need one of the metrics '
            f'{", ".join(_COCO_METRICS)} as test_evaluator; {cfg.filename} has none.'
        )
    for one in coco:
        if args.classwise:
            one.classwise = True
        if args.save_results:
            prefix = Path(args.save_results) / Path(cfg.filename).stem
            refuse_existing(prefix)
            one.outfile_prefix, one.format_only = str(prefix), args.format_only


def refuse_existing(prefix: Path) -> None:
    """Raise UserError if result files of that prefix are there."""
    for task in TASKS:
        path = results_path(prefix, task)
        if path.exists():
            raise UserError(
                f'{path} exists, and this command overwrites nothing. Remove it or '
                'give --save-results another folder.'
            )
