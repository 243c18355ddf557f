"""``eca-mmdet train --data``: the config is written into the work folder, then used."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from eca_mmdet.atomic import whole_file
from eca_mmdet.errors import UserError, printable
from eca_mmdet.own_data.options import Options

FOLDER = 'init'
"""Of the configs in a work folder; mmengine writes its own dump one level higher."""

_ONLY_WITH_DATA = (
    'images',
    'val_images',
    'model',
    'weights',
    'keep_classes',
    'keep_defaults',
    'epochs',
)


def config_of(args: argparse.Namespace) -> str:
    """Return the config to train: the one that was named, or one for ``--data``.

    Args:
        args: of ``train``; ``work_dir`` is set where it was not.

    Raises:
        UserError: both or neither were given, or the data cannot be used.
    """
    if not args.data:
        _require_no_options(args)
        if not args.config:
            raise UserError('name a config (eca-mmdet configs), or give --data.')
        return str(args.config)
    if args.config:
        raise UserError(
            f'--data writes its own config; inherit {args.config} with --model.'
        )
    if args.launcher != 'none':
        raise UserError(
            '--data goes with one process. Write the config first: eca-mmdet init; '
            'then train that.'
        )
    options = options_of(args)
    if not args.work_dir:
        args.work_dir = str(Path('work_dirs') / _name(options))
    folder = Path(args.work_dir) / FOLDER
    if args.resume and (there := _latest(folder)):
        print(printable(f'config: {there}, written when this training began'))
        return str(there)
    return str(_write(options, folder))


def options_of(args: argparse.Namespace) -> Options:
    """Return what was asked for as options of ``init``."""
    from eca_mmdet.own_data.plan import words

    if len(args.data) > 2:
        raise UserError(
            f'--data takes a training and a validation file; got {len(args.data)}.'
        )
    train, val = (*args.data, None)[:2]
    return Options(
        train,
        val,
        args.images,
        args.val_images,
        args.model,
        args.weights,
        args.keep_classes,
        args.keep_defaults,
        args.epochs,
        words(sys.argv[1:]),
    )


def _require_no_options(args: argparse.Namespace) -> None:
    given = [name for name in _ONLY_WITH_DATA if getattr(args, name)]
    if given:
        words = ', '.join(f'--{name.replace("_", "-")}' for name in given)
        raise UserError(f'{words} goes with --data TRAIN.json VAL.json.')


def _name(options: Options) -> str:
    model = Path(options.model or 'detector').stem
    return f'{model}_{Path(options.train).stem}'


def _latest(folder: Path) -> Path | None:
    found = sorted(folder.glob('*.py'), key=lambda one: one.stat().st_mtime)
    return found[-1] if found else None


def _write(options: Options, folder: Path) -> Path:
    """Write the config under a name that is not there yet."""
    from eca_mmdet.own_data.plan import write_config

    text = write_config(options, lambda line: print(printable(line), flush=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [_name(options), *(f'{_name(options)}-{n}' for n in range(2, 1000))]
        path = next(p for n in names if not os.path.lexists(p := folder / f'{n}.py'))
        with whole_file(path) as partial:
            partial.write_text(text, encoding='utf-8')
    except OSError as error:
        raise UserError(f'no config can be written to {folder}: {error}') from error
    print(printable(f'config: {path}'), flush=True)
    return path
