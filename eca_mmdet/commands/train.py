"""``eca-mmdet train``: mmdet's training with the traps closed."""

from __future__ import annotations

import argparse

from eca_mmdet import launch
from eca_mmdet.processes import ending_workers


def run(args: argparse.Namespace) -> int:
    """Check, scale the learning rate, train."""
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    if args.from_scratch:
        launch.start_from_scratch(cfg)
    if args.amp:
        launch.use_amp(cfg)
    if args.resume:
        launch.resume_from(cfg, args.resume)
    launch.check(cfg, training=True)
    launch.apply_lr_policy(cfg, scale=not args.no_scale_lr)
    runner = launch.build_runner(cfg)
    launch.check_start(cfg, runner, exact=bool(cfg.get('resume')))
    with ending_workers(runner):
        runner.train()
    return 0
