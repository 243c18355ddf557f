"""Atomic writing of checkpoints: nothing is removed before its successor exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend

from eca_mmdet.utils.io import whole_file

BACKEND = 'whole_files'
POINTER = 'last_checkpoint'
"""File in a work folder that names the latest checkpoint, as mmengine writes it."""


class WholeFiles(LocalBackend):  # type: ignore[misc]
    """mmengine's local files, with nothing removed before its successor exists.

    mmengine removes the oldest checkpoint, and then begins to write the new one over
    its name, byte by byte: a kill or a full disk between the two leaves neither.
    """

    _outdated: list[str] = []  # of the process: mmengine makes a backend a call

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file whole, then remove what it replaces."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_bytes(obj)
        while self._outdated:
            old = Path(self._outdated.pop())
            if old != path:
                old.unlink(missing_ok=True)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file after the next one has been written."""
        self._outdated.append(str(filepath))


def write_whole_files(runner: Any) -> None:
    """Make the checkpoint hooks of a Runner write through ``WholeFiles``.

    Hooks that were given a storage of their own keep it.
    """
    from mmengine.hooks import CheckpointHook

    register_backend(BACKEND, WholeFiles, force=True)
    WholeFiles._outdated.clear()
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        remote = '://' in str(hook.out_dir or runner.work_dir)
        if not (hook.backend_args or hook.file_client_args or remote):
            hook.backend_args = {'backend': BACKEND}


def remove_partial(folder: str | Path) -> None:
    """Remove what a killed training had begun to write in its work folder."""
    for name in ('*.pth', POINTER):
        for path in Path(folder).glob(f'.{name}.*.partial'):
            path.unlink(missing_ok=True)


def point_to(checkpoint: Path) -> None:
    """Make ``--resume`` take this checkpoint."""
    with whole_file(checkpoint.with_name(POINTER)) as partial:
        partial.write_text(str(checkpoint))
