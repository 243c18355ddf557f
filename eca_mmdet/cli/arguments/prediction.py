"""Arguments of the command that shows what a detector finds."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands, at_least_1, fraction


def add_predict(commands: Commands) -> None:
    """Add ``predict``."""
    predict = commands.add_parser(
        'predict',
        help='draw what a detector finds in images or a video',
        description='Find objects with a trained detector: pictures with boxes, masks '
        'and class names, and the same as a COCO file. Nothing but the checkpoint and '
        'the images is needed.',
    )
    add = predict.add_argument
    add(
        'checkpoint',
        metavar='CHECKPOINT',
        help='what mmengine saved in training, or eca-mmdet export wrote (.onnx)',
    )
    add(
        'source',
        metavar='IMAGE|DIR|VIDEO',
        help='an image, a folder with images (and below it), or a video',
    )
    add(
        '--out',
        metavar='DIR',
        help='folder to create (default: runs/predict-DATE-TIME)',
    )
    add(
        '--score-thr',
        type=fraction,
        default=0.3,
        metavar='S',
        help='leave out objects of a lower score (default: 0.3)',
    )
    add(
        '--cam',
        action='store_true',
        help='also pictures of where the evidence for the objects lies',
    )
    add(
        '--every',
        type=at_least_1,
        metavar='N',
        help='of a video, every N-th frame alone (default: 1)',
    )
    add(
        '--config',
        metavar='NAME|FILE',
        help='use this config, not the one in the checkpoint; it is Python and is run',
    )
    add(
        '--device',
        metavar='NAME',
        help='as cuda:0 or cpu (default: an accelerator if there is one)',
    )
