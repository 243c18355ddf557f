"""The config of ``train --data``: written into the work folder, then used."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from eca_mmdet.autoconfig.inputs import Options
from eca_mmdet.autoconfig.plan import write_config
from eca_mmdet.engine.checkpointing import find_checkpoint, require_no_checkpoints
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file

logger = logging.getLogger(__name__)

FOLDER = 'init'
"""Of the configs in a work folder; mmengine writes its own dump one level higher."""


def config_of(
    config: str | None,
    data: Sequence[str],
    options: Options,
    work_dir: str | None = None,
    resume: bool = False,
    launcher: str = 'none',
) -> tuple[str, str | None]:
    """Return the config to train and its work folder.

    Args:
        config: name or file; None with ``data``.
        data: training and validation data; empty with ``config``.
        options: what was asked for beside the data.
        work_dir: run folder; None for ``work_dirs/NAME`` with data, and for that of the
            config without.
        resume: whether to go on with the training in ``work_dir``.
        launcher: 'none' for a single process.

    Raises:
        UserError: both or neither were given, or the data cannot be used.
    """
    if not data:
        _require_no_options(options)
        if not config:
            raise UserError(
                'name a config (eca-mmdet configs), or give --data.',
                code='option-missing',
            )
        return config, work_dir
    if config:
        raise UserError(
            f'--data writes its own config; inherit {config} with --model.',
            code='option-conflict',
        )
    if launcher != 'none':
        raise UserError(
            '--data goes with one process. Write the config first: eca-mmdet init; '
            'then train that.',
            code='option-conflict',
        )
    if len(data) > 2:
        raise UserError(
            f'--data takes a training and a validation file; got {len(data)}.',
            code='option-invalid',
        )
    name = _name(data[0], options.model)
    work_dir = work_dir or str(Path('work_dirs') / name)
    folder = Path(work_dir) / FOLDER
    trained = _trained(folder) if resume else None
    if not resume:
        require_no_checkpoints(work_dir)  # before a config is written beside them
    proposed = write_config(data[0], data[1] if len(data) > 1 else None, options)
    if trained is None:
        return str(_write(proposed.text, folder, name)), work_dir
    if _body(trained.read_text(encoding='utf-8')) != _body(proposed.text):
        raise UserError(
            f'the data or the options are others than when this training began. To go '
            f'on as it began: eca-mmdet train {trained} --work-dir {work_dir} '
            '--resume; for a new training name another --work-dir.',
            code='checkpoint-mismatch',
        )
    logger.info(f'config: {trained}, written when this training began')
    return str(trained), work_dir


def _require_no_options(options: Options) -> None:
    given = [name for name, value in vars(options).items() if value]
    words = [f'--{name.replace("_", "-")}' for name in given if name != 'command']
    if words:
        raise UserError(
            f'{", ".join(words)} goes with --data TRAIN.json VAL.json.',
            code='option-conflict',
        )


def _name(train: str, model: str | None) -> str:
    """Return a name of the model and the data, e.g. 'mask-rcnn_eca-r50_pets_train'."""
    path = Path(train)
    folders = [one for one in (path.parent.name, path.parent.parent.name) if one]
    folder = next((one for one in folders if one != 'annotations'), '')
    return '_'.join(filter(None, (Path(model or 'detector').stem, folder, path.stem)))


def _trained(folder: Path) -> Path | None:
    """Return the config of the latest checkpoint, by the name of its run."""
    found = find_checkpoint(str(folder.parent))
    if found is None:
        return None
    run = str(found.meta.get('experiment_name') or '')
    name = run.rsplit('_', 2)[0]  # mmengine adds date and time
    path = folder / f'{name}.py'
    if name and path.is_file():
        return path
    raise UserError(
        f'{found.path} is not of a training that --data began. Resume that with its '
        'config, or name another --work-dir.',
        code='checkpoint-mismatch',
    )


def _body(text: str) -> str:
    """Return a config without its head, which has the command in it."""
    return text.partition('\n_base_ = ')[2]


def _write(text: str, folder: Path, name: str) -> Path:
    """Write the config under a name that does not exist yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [name, *(f'{name}-{number}' for number in range(2, 1000))]
        path = next(p for n in names if not os.path.lexists(p := folder / f'{n}.py'))
        with whole_file(path) as partial:
            partial.write_text(text, encoding='utf-8')
    except OSError as error:
        raise UserError(
            f'no config can be written to {folder}: {error}', code='file-not-written'
        ) from error
    logger.info(f'config: {path}')
    return path
