"""``eca-mmdet test``: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from eca_mmdet import launch
from eca_mmdet.errors import UserError


def run(args: argparse.Namespace) -> int:
    """Check, test, print the table (the config's APTableHook does) or JSON."""
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise UserError(
            f'checkpoint {args.checkpoint!r} does not exist. Training leaves them in '
            'its work folder as epoch_N.pth or iter_N.pth.'
        )
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    cfg.load_from = args.checkpoint
    launch.check(cfg, training=False)
    # With --json the metrics have stdout to themselves; logs go to stderr.
    logs = sys.stderr if args.json else sys.stdout
    with contextlib.redirect_stdout(logs):
        metrics = launch.build_runner(cfg).test()
    if args.json and launch.is_main_process():
        print(json.dumps(metrics, indent=1))
    return 0
