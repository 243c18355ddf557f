"""``eca-mmdet train``: mmdet's training with the traps closed."""

from __future__ import annotations

import argparse

from eca_mmdet import determinism, launch, processes


def run(args: argparse.Namespace) -> int:
    """Check, scale the learning rate, train."""
    cfg = launch.load_config(args)
    launch.set_work_dir(cfg, args)
    if args.from_scratch:
        launch.start_from_scratch(cfg)
    if args.amp:
        launch.use_amp(cfg)
    determinism.set_randomness(cfg, args.seed, args.deterministic)
    if args.resume:
        launch.resume_from(cfg, args.resume)
    launch.check(cfg, training=True)
    launch.apply_lr_policy(cfg, scale=not args.no_scale_lr)
    from eca_mmdet.resumed_batch import follow_batch

    with processes.job(cfg), determinism.explained():
        runner = launch.build_runner(cfg)
        follow_batch(cfg, runner, scale=not args.no_scale_lr)
        launch.check_start(cfg, runner, exact=bool(cfg.get('resume')))
        runner.train()
    return 0
