"""``eca-mmdet train --data``: the config is written into the work folder, then used."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from eca_mmdet.autoconfig.options import Options
from eca_mmdet.autoconfig.plan import write_config
from eca_mmdet.engine.resume import find_checkpoint, require_no_checkpoints
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file
from eca_mmdet.utils.text import printable

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
    if args.resume:
        return str(_resumed(options, Path(args.work_dir)))
    require_no_checkpoints(args.work_dir)  # before a config is written beside them
    return str(_write(options, Path(args.work_dir) / FOLDER))


def options_of(args: argparse.Namespace) -> Options:
    """Return what was asked for as options of ``init``."""
    if len(args.data) > 2:
        raise UserError(
            f'--data takes a training and a validation file; got {len(args.data)}.'
        )
    train, val = (*args.data, None)[:2]
    typed = sys.argv[1 + (sys.argv[1:2] == ['train']) :]
    return Options.of(args, train, val, ['train', *typed])


def _require_no_options(args: argparse.Namespace) -> None:
    given = [name for name in _ONLY_WITH_DATA if getattr(args, name)]
    if given:
        words = ', '.join(f'--{name.replace("_", "-")}' for name in given)
        raise UserError(f'{words} goes with --data TRAIN.json VAL.json.')


def _name(options: Options) -> str:
    """Return a name of the model and the data, as 'mask-rcnn_eca-r50_pets_train'."""
    path = Path(options.train)
    folders = [one for one in (path.parent.name, path.parent.parent.name) if one]
    folder = next((one for one in folders if one != 'annotations'), '')
    return '_'.join(
        filter(None, (Path(options.model or 'detector').stem, folder, path.stem))
    )


def _resumed(options: Options, work_dir: Path) -> Path:
    """Return the config that the training in a folder began with.

    Raises:
        UserError: the data or the options are others now.
    """
    trained = _trained(work_dir)
    if trained is None:
        return _write(options, work_dir / FOLDER)
    text = write_config(options, _print)
    if _body(trained.read_text(encoding='utf-8')) != _body(text):
        raise UserError(
            f'the data or the options are others than when this training began. To go '
            f'on as it began: eca-mmdet train {trained} --work-dir {work_dir} '
            '--resume; for a new training name another --work-dir.'
        )
    _print(f'config: {trained}, written when this training began')
    return trained


def _trained(work_dir: Path) -> Path | None:
    """Return the config of the latest checkpoint, by the name of its run."""
    found = find_checkpoint(str(work_dir))
    if found is None:
        return None
    run = str(found.meta.get('experiment_name') or '')
    name = run.rsplit('_', 2)[0]  # mmengine adds date and time
    path = work_dir / FOLDER / f'{name}.py'
    if name and path.is_file():
        return path
    raise UserError(
        f'{found.path} is not of a training that --data began. Resume that with its '
        'config, or name another --work-dir.'
    )


def _body(text: str) -> str:
    """Return a config without its head, which has the command in it."""
    return text.partition('\n_base_ = ')[2]


def _print(line: str) -> None:
    print(printable(line), flush=True)


def _write(options: Options, folder: Path) -> Path:
    """Write the config under a name that is not there yet."""
    text = write_config(options, _print)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [_name(options), *(f'{_name(options)}-{n}' for n in range(2, 1000))]
        path = next(p for n in names if not os.path.lexists(p := folder / f'{n}.py'))
        with whole_file(path) as partial:
            partial.write_text(text, encoding='utf-8')
    except OSError as error:
        raise UserError(f'no config can be written to {folder}: {error}') from error
    _print(f'config: {path}')
    return path
