"""Write several annotation files, all of them or none."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import whole_file


def write_new(contents: Mapping[Path, Mapping[str, Any]]) -> None:
    """Write annotation files under names that are free.

    Raises:
        UserError: a name is taken, the folder cannot be made, or the disk is full;
            nothing was written.
    """
    for path in contents:
        if os.path.lexists(path):
            raise UserError(
                f'{path} exists already; nothing was written. Remove it, or write to '
                'another folder with --out.'
            )
    made: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            for path, content in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = stack.enter_context(whole_file(path))
                made.append(path)
                partial.write_text(json.dumps(content), encoding='utf-8')
    except BaseException as error:
        for path in made:  # the last of several may fail to get its name
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f'{next(iter(contents)).parent} cannot be written to '
                f'({error.strerror}); nothing was. Give another folder with --out.'
            ) from error
        raise
