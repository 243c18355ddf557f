"""Find the logs of a run: which files belong together, oldest first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from eca_mmdet.utils.errors import UserError

_STAMP = re.compile(r'\d{8}_\d{6}')


@dataclass(frozen=True)
class Source:
    """The files that one start of training wrote.

    Attributes:
        name: of the start, as '20230101_100000'.
        numbers: its JSON; None if there is none.
        text: its text log; None if there is none.
        configs: what it ran with.
    """

    name: str
    numbers: Path | None
    text: Path | None
    configs: tuple[Path, ...]


def find_sources(path: Path) -> list[Source]:
    """Return the starts whose logs are at a path.

    Args:
        path: a work_dir, the folder of one start in it, a folder whose ``train`` is a
            work_dir, or a log.

    Raises:
        UserError: nothing is there, or no log is in it.
    """
    try:
        if path.is_file():
            return [_of_file(path)]
        if not path.is_dir():
            raise UserError(
                f'no training log at {str(path)!r}: it is neither a file nor a folder. '
                'Name the work_dir of a training, or a log of it.'
            )
        for folder in (path, path / 'train'):
            if folder.is_dir() and (found := _of_folder(folder)):
                return found
    except OSError as error:
        raise UserError(
            f'the folder {str(path)!r} cannot be read: {error.strerror}.'
        ) from error
    raise UserError(
        f'no training log in {str(path)!r}: looked for folders named by date and time '
        '(20230101_100000) with vis_data/*.json or a .log in them, which mmengine '
        'makes; for *.log.json and *.log, which MMDetection 2.x makes; and in its '
        'train folder. Name the work_dir of a training, or a log of it.'
    )


def _of_file(path: Path) -> Source:
    """Return one file as a source, with what lies beside it for reference."""
    folder = path.parent
    if folder.name == 'vis_data':
        beside = _text_of_start(folder.parent)
        return Source(path.stem, path, beside, _existing(folder / 'config.py'))
    if not _is_json(path):
        own = _existing(folder / 'vis_data' / 'config.py') or _configs(folder)
        return Source(path.stem, None, path, own)
    name = path.name.removesuffix('.json').removesuffix('.log')
    text = _existing(folder / f'{name}.log')
    return Source(name, path, text[0] if text else None, _configs(folder))


def _is_json(path: Path) -> bool:
    """Tell by the name, or else by the first letter."""
    if path.suffix == '.json':
        return True
    with open(path, 'rb') as file:
        head = file.read(64)
    return head.removeprefix(b'\xef\xbb\xbf').lstrip()[:1] == b'{'


def _of_folder(folder: Path) -> list[Source]:
    if folder.name == 'vis_data':
        folder = folder.parent
    one = _of_start(folder) if (folder / 'vis_data').is_dir() else None
    if one is None and _STAMP.fullmatch(folder.name):
        one = _of_start(folder)
    if one is not None:
        return [one]
    starts = [_of_start(each) for each in folder.iterdir() if _is_start(each)]
    found = [each for each in starts if each is not None]
    return sorted(found + _old_logs(folder, bool(found)), key=lambda each: each.name)


def _is_start(path: Path) -> bool:
    return bool(_STAMP.fullmatch(path.name)) and path.is_dir()


def _of_start(folder: Path) -> Source | None:
    """Return what mmengine wrote in one start, or None if that is nothing."""
    data = folder / 'vis_data'
    # The dated file has what mmengine logs; scalars.json also what the user's hooks do.
    dated = sorted(each for each in data.glob('*.json') if _STAMP.fullmatch(each.stem))
    tries = [data / f'{folder.name}.json', *dated, data / 'scalars.json']
    numbers = next((one for one in tries if one.is_file() and one.stat().st_size), None)
    text = _text_of_start(folder)
    if numbers is None and text is None:
        return None
    configs = _existing(data / 'config.py') or _existing(
        folder.parent / f'{folder.name}.py'
    )
    return Source(folder.name, numbers, text, configs or _configs(folder.parent))


def _text_of_start(folder: Path) -> Path | None:
    """Return its log; those of further processes are named by their rank."""
    others = (one for one in sorted(folder.glob('*.log')) if '_rank' not in one.name)
    tries = [folder / f'{folder.name}.log', *others]
    return next((one for one in tries if one.is_file()), None)


def _old_logs(folder: Path, dated_only: bool) -> list[Source]:
    """Return MMDetection 2.x's starts, whose files lie in the work_dir itself."""
    logs = [one for one in folder.glob('*.log') if one.is_file()]
    logs += [one for one in folder.glob('*.log.json') if one.is_file()]
    names = {one.name.removesuffix('.json').removesuffix('.log') for one in logs}
    dated = {one for one in names if _STAMP.fullmatch(one)}
    # A console's copy may lie beside the dated logs, and says the same again.
    names = dated if dated or dated_only else names
    return [_old_log(folder, name) for name in sorted(names)]


def _old_log(folder: Path, name: str) -> Source:
    numbers = _existing(folder / f'{name}.log.json')
    text = _existing(folder / f'{name}.log')
    return Source(
        name,
        numbers[0] if numbers else None,
        text[0] if text else None,
        _configs(folder),
    )


def _configs(folder: Path) -> tuple[Path, ...]:
    """Return the configs that the training tools copy into a work_dir, newest last."""
    found = [one for one in folder.glob('*.py') if one.is_file()]
    return tuple(sorted(found, key=lambda one: (one.stat().st_mtime, one.name)))


def _existing(path: Path) -> tuple[Path, ...]:
    return (path,) if path.is_file() else ()
