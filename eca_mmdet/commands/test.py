"""``eca-mmdet test``: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from eca_mmdet import launch
from eca_mmdet.weights.detector import read_detector
from eca_mmdet.weights.fetch import is_address


def run(args: argparse.Namespace) -> int:
    """Check, test, print the table (the config's APTableHook does) or JSON."""
    if not is_address(args.checkpoint):
        read_detector(args.checkpoint)  # before mmdet is loaded, which takes seconds
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    launch.check(cfg, training=False)
    # With --json the metrics have stdout to themselves; logs go to stderr.
    logs = sys.stderr if args.json else sys.stdout
    with contextlib.redirect_stdout(logs):
        runner = launch.build_runner(cfg)
        launch.check_start(cfg, runner, exact=True)
        metrics = runner.test()
    if args.json and launch.is_main_process():
        print(json.dumps(metrics, indent=1))
    return 0
