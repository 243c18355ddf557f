"""``eca-mmdet test``: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from eca_mmdet.cli.common import (
    Adder,
    Commands,
    add_run_options,
    display,
    run_options,
    suggest,
)
from eca_mmdet.utils.errors import UserError


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    test = commands.add_parser(
        'test',
        help='evaluate a checkpoint and print its AP table',
        description='Run a detector over its test set and print the COCO AP table.',
    )
    add = Adder(test)
    text = (
        'file or address, or a work folder: its best or else last checkpoint. Before '
        'it, its config: a name (see: eca-mmdet configs) or a file, which is Python '
        'and is run (default: the one in the checkpoint)'
    )
    add('paths', nargs='+', metavar='[CONFIG] CHECKPOINT', help=text)
    test.usage = '%(prog)s [CONFIG] CHECKPOINT [options]'
    test.set_defaults(trailing='paths')
    add_run_options(test)
    add.flag('--classwise', 'AP of each class')
    add(
        '--save-results',
        metavar='DIR',
        help='write the detections as COCO result files',
    )
    add.flag(
        '--format-only', "evaluate nothing; also write COCO's submission zip (test-dev)"
    )
    add.flag('--fast', 'fused norms, channels-last, bfloat16 in backbone and neck')
    add.flag('--compile', 'with --fast: the backbone through torch.compile as well')
    add.flag(
        '--compare', 'with --fast: evaluate without it first, and print what it changes'
    )
    add.flag('--json', 'print the metrics as JSON')


def run(args: argparse.Namespace) -> int:
    """Test; the config's metric prints the table. Print JSON."""
    if (args.compile or args.compare) and not args.fast:
        raise UserError(
            '--compile and --compare require --fast.', code='option-conflict'
        )
    if len(args.paths) > 2:
        raise UserError(
            'a checkpoint is expected, and before it its config if need be; got '
            f'{len(args.paths)}: {" ".join(args.paths)}.',
            code='option-invalid',
        )
    *config, checkpoint = args.paths
    from eca_mmdet.engine.distributed import is_main_process
    from eca_mmdet.engine.testing import test

    fast = None
    if args.fast:
        from eca_mmdet.inference.fast import FastTestHook

        fast = FastTestHook(args.compile)
    # With --json only the metrics go to stdout, and logs to stderr.
    with (
        contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout),
        display(args) as shown,
    ):
        result = test(
            config[0] if config else None,
            checkpoint,
            **run_options(args),
            classwise=args.classwise,
            save_results=args.save_results,
            format_only=args.format_only,
            fast=fast,
            compare=args.compare,
            display=shown,
        )
    if args.json and is_main_process():
        print(json.dumps(result.metrics, indent=1))
    elif not args.format_only:
        # The training's folder, if the test's is below it.
        folder = result.log_dir.parent
        folder = folder.parent if folder.name == 'test' else folder
        suggest(
            ['report', folder],
            ['predict', checkpoint, 'IMAGES'],
            ['export', 'onnx', *args.paths],
        )
    return 0
