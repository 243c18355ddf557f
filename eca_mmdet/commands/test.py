"""``eca-mmdet test``: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from eca_mmdet import launch
from eca_mmdet.weights.detector import read_detector, require_fit


def run(args: argparse.Namespace) -> int:
    """Check, test, print the table (the config's APTableHook does) or JSON."""
    remote = '://' in args.checkpoint
    state = None if remote else read_detector(args.checkpoint)
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    cfg.load_from = args.checkpoint
    launch.check(cfg, training=False)
    # With --json the metrics have stdout to themselves; logs go to stderr.
    logs = sys.stderr if args.json else sys.stdout
    with contextlib.redirect_stdout(logs):
        runner = launch.build_runner(cfg)
        if state is not None:
            require_fit(state, runner.model, args.checkpoint)
            del state
        metrics = runner.test()
    if args.json and launch.is_main_process():
        print(json.dumps(metrics, indent=1))
    return 0
