"""``eca-mmdet gates``: what a trained detector's gates do, by channel and class."""

from __future__ import annotations

import argparse
import json
import logging

from eca_mmdet.cli.common import Adder, Commands, at_least_1, fraction

logger = logging.getLogger(__name__)


def add_parser(commands: Commands) -> None:
    """Add ``gates``."""
    gates = commands.add_parser(
        'gates',
        help="a trained detector's gate values by channel, stage and class",
        description='Run images through the backbone and neck of trained detectors, '
        'and show what their gates do: values by channel averaged per class, kernels, '
        'dead and saturated channels. Pictures and gates.json go to a run folder.',
    )
    add = Adder(gates)
    text = 'checkpoint files or work folders; several are drawn side by side'
    add('checkpoints', nargs='+', metavar='CHECKPOINT', help=text)
    text = 'a folder, or a COCO annotation file, which has classes too'
    add('--images', required=True, metavar='DIR|ANN', help=text)
    text = "of the annotation file's images (default: looked for around it)"
    add('--images-dir', metavar='DIR', help=text)
    text = 'of the annotation file (default: the four on most images)'
    add('--classes', nargs='+', metavar='NAME', help=text)
    text = 'images, as many of each class as can be'
    add.value('--limit', 'N', text, 100, at_least_1)
    text = "below X of the gate's range on all images"
    add.value('--dead', 'X', text, 0.05, fraction)
    add.value('--saturated', 'X', 'above X of it on all images', 0.95, fraction)
    text = 'standard deviation over images below X of it'
    add.value('--constant', 'X', text, 0.001, fraction)
    text = 'instead of the config in the checkpoint: one for all, or one for each'
    add('--config', nargs='+', metavar='NAME|FILE', help=text)
    add('--device', metavar='NAME', help='as cpu or cuda:0 (default: the best)')
    add('--out', metavar='DIR', help='run folder to create (default: runs/gates-DATE)')
    add.flag('--json', 'print JSON')


def run(args: argparse.Namespace) -> int:
    """Choose images, measure, print and draw."""
    from eca_mmdet.analysis.gate_images import choose_images
    from eca_mmdet.utils.errors import UserError
    from eca_mmdet.utils.io import make_run_folder, require_free, write_json

    if args.out:
        require_free(args.out)
    configs: list[str | None] = args.config or [None]
    if len(configs) == 1:
        configs = configs * len(args.checkpoints)
    if len(configs) != len(args.checkpoints):
        raise UserError(
            '--config: expected one config for all, or one for each of the '
            f'{len(args.checkpoints)} checkpoints; got {len(configs)}.',
            code='option-invalid',
        )
    if not args.dead < args.saturated:
        raise UserError(
            f'--dead must be less than --saturated; got {args.dead} and '
            f'{args.saturated}.',
            code='option-conflict',
        )
    images = choose_images(args.images, args.images_dir, args.classes, args.limit)
    out = make_run_folder(args.out, 'gates')  # before minutes of work
    try:
        from eca_mmdet.analysis.gate_plots import draw_gates, gate_tables
        from eca_mmdet.analysis.gates import Thresholds, record_gates
        from eca_mmdet.evaluation.coco_eval import versions

        thresholds = Thresholds(args.dead, args.saturated, args.constant)
        record = record_gates(
            args.checkpoints, images, configs, args.device, thresholds
        )
    except BaseException:
        out.rmdir()
        raise
    record['versions'] = versions()
    write_json(out / 'gates.json', record)
    print(json.dumps(record, indent=1) if args.json else gate_tables(record))
    picture = draw_gates(record, out)
    for checkpoint in record['checkpoints']:
        for left in checkpoint['left_out']:
            logger.warning('left out: %(name)s (%(layer)s): %(reason)s', left)
    for path in (out / 'gates.json', picture):
        logger.warning('%s', path)
    return 0
