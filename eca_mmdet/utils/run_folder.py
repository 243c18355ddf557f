"""New folders for what a command leaves behind."""

from __future__ import annotations

import os
from collections.abc import Container
from datetime import datetime
from pathlib import Path

from eca_mmdet.utils.errors import UserError


def make_run_folder(name: str | None, kind: str) -> Path:
    """Create a run folder; never reuse one.

    Args:
        name: the folder, or None for ``runs/KIND-DATE-TIME``.
        kind: the command, as 'demo'.

    Raises:
        UserError: it exists, or cannot be created.
    """
    stamp = datetime.now().strftime('%Y%m%d-%H%M%S')
    default = Path('runs') / f'{kind}-{stamp}'
    tries = [Path(name)] if name else [default]
    tries += [] if name else [Path(f'{default}-{index}') for index in range(2, 100)]
    for out in tries:
        try:
            out.mkdir(parents=True)
            return out
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f'cannot create the run folder {out}: {error}') from error
    raise UserError(_exists(tries[0]))


def take_own_folder(out: Path, own: Container[str]) -> None:
    """Make the folder of a command that goes on, or take one of an earlier call.

    Args:
        out: the folder.
        own: names of what the command leaves in it.

    Raises:
        UserError: it cannot be a folder, or has something else in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = (one.name for one in out.iterdir())
        # Hidden files are the system's, or half-written ones of a call that was killed.
        strangers = [one for one in names if one not in own and one[0] != '.']
    except OSError as error:
        raise UserError(f'--out {out} cannot be a folder: {error}.') from error
    if strangers:
        raise UserError(
            f'--out {out} has {strangers[0]!r} in it, which is not of this command. '
            'Name a new folder, or one of an earlier call.'
        )


def require_new_folder(name: str | None) -> None:
    """Raise UserError if a folder to be made is there; before long work."""
    if name and os.path.lexists(name):
        raise UserError(_exists(Path(name)))


def _exists(out: Path) -> str:
    return (
        f'{out} exists, and this command overwrites nothing. Remove it or name another '
        'with --out.'
    )
