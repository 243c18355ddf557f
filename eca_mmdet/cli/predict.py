"""``eca-mmdet predict``: pictures and a COCO file of what a detector finds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from eca_mmdet.cli.common import Adder, Commands, at_least_1, fraction

if TYPE_CHECKING:
    from eca_mmdet.inference.predict import Images, PredictedFiles, Video


def add_parser(commands: Commands) -> None:
    """Add ``predict``."""
    predict = commands.add_parser(
        'predict',
        help='draw what a detector finds in images or a video',
        description='Find objects with a trained detector: pictures with boxes, masks '
        'and class names, and the same as a COCO file. Nothing but the checkpoint and '
        'the images is needed.',
    )
    add = Adder(predict)
    text = (
        'what mmengine saved in training, a work folder or that of a demo (its best or '
        'else last checkpoint), or what eca-mmdet export wrote (.onnx)'
    )
    add('checkpoint', metavar='CHECKPOINT', help=text)
    add(
        'source',
        nargs='+',
        metavar='IMAGE|DIR|VIDEO',
        help='images, folders with images (and below them) and quoted patterns such as '
        "'a/*.jpg'; or one video",
    )
    text = 'folder to create (default: runs/predict-DATE-TIME)'
    add('--out', metavar='DIR', help=text)
    add.flag('--force', 'replace the results of an earlier call in --out')
    add.value('--score-thr', 'S', 'leave out objects of a lower score', 0.3, fraction)
    text = 'keep objects of these classes, by name or number from 0'
    add('--classes', nargs='+', metavar='NAME', help=text)
    text = 'keep the N objects of highest score in each image'
    add('--max-det', type=at_least_1, metavar='N', help=text)
    text = 'width of lines in pixels (default: by the size of the image)'
    add('--line-width', type=at_least_1, metavar='N', help=text)
    add.flag('--no-labels', 'draw no names and scores')
    add.flag('--save-crop', 'also a picture of each object, by class')
    add.flag('--cam', 'also pictures of where the evidence for the objects lies')
    text = 'of a video, every N-th frame alone (default: 1)'
    add('--every', type=at_least_1, metavar='N', help=text)
    text = 'use this config, not the one in the checkpoint; it is Python and is run'
    add('--config', metavar='NAME|FILE', help=text)
    text = 'as cuda:0 or cpu (default: an accelerator if there is one)'
    add('--device', metavar='NAME', help=text)


def run(args: argparse.Namespace) -> int:
    """Predict; return 1 if one of several images could not be read."""
    from eca_mmdet import __version__
    from eca_mmdet.inference.predict import open_source, predict_files
    from eca_mmdet.utils.io import require_free

    source = open_source(args.source, args.every)
    if args.out and not args.force:
        require_free(args.out, option='--out, or add --force')
    detector = _load(args)
    info = {
        'description': 'objects that a detector found',
        'checkpoint': args.checkpoint,
        'source': args.source if len(args.source) > 1 else args.source[0],
        'score_thr': args.score_thr,
        'eca_mmdet': __version__,
    }
    chosen = {'classes': args.classes, 'max_det': args.max_det}
    info |= {key: value for key, value in chosen.items() if value}
    result = predict_files(
        detector,
        source,
        args.out,
        args.score_thr,
        args.cam,
        info,
        classes=args.classes,
        most=args.max_det,
        crops=args.save_crop,
        force=args.force,
        line_width=args.line_width,
        show_labels=not args.no_labels,
    )
    print(_summary(result, source, args.score_thr))
    if result.interrupted:
        raise KeyboardInterrupt
    return int(result.failed > 0)


def _load(args: argparse.Namespace) -> Any:
    if args.checkpoint.lower().endswith('.onnx'):
        return _load_onnx(args)
    from eca_mmdet.engine.checkpointing import checkpoint_of
    from eca_mmdet.inference.detector import load_detector

    args.checkpoint = checkpoint_of(args.checkpoint)  # named in what is written
    detector = load_detector(args.checkpoint, args.config, args.device)
    if args.cam:
        from eca_mmdet.inference.cam import require_traceable

        require_traceable(detector.model)
    return detector


def _load_onnx(args: argparse.Namespace) -> Any:
    from eca_mmdet.export.runtime import OnnxDetector
    from eca_mmdet.utils.errors import UserError

    given = {
        '--cam': args.cam,
        '--config': args.config,
        '--device': args.device not in (None, 'cpu'),
    }
    for name in (name for name, value in given.items() if value):
        raise UserError(
            f'{name} goes with a checkpoint of mmengine; an ONNX file has only its '
            'network, which is run on the CPU here.',
            code='option-conflict',
        )
    return OnnxDetector(args.checkpoint)


def _summary(result: PredictedFiles, source: Images | Video, score: float) -> str:
    from eca_mmdet.inference.predict import RECORD, Video
    from eca_mmdet.utils.text import plural, printable

    kind = 'frame' if isinstance(source, Video) else 'image'
    failed = f', {result.failed} could not be read' if result.failed else ''
    objects = plural(result.objects, 'object')
    lines = [
        *result.notes,
        f'{plural(result.images, kind)}{failed}: {objects} with '
        f'a score of {score:g} or more; {result.seconds:.1f} s. Look at:',
        *(f'  {result.out / name}' for name in (*result.kinds, RECORD)),
    ]
    return '\n'.join(map(printable, lines))
