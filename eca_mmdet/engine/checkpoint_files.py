"""Checkpoints: written whole, removed late, found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import LocalBackend, register_backend

from eca_mmdet.checkpoints.io import read_checkpoint
from eca_mmdet.utils.errors import WeightsError
from eca_mmdet.utils.io import whole_file

BACKEND = 'whole_files'
_POINTER = 'last_checkpoint'  # mmengine's name


class WholeFiles(LocalBackend):  # type: ignore[misc]
    """mmengine's local files, with nothing removed before its successor is there.

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
    for name in ('*.pth', _POINTER):
        for path in Path(folder).glob(f'.{name}.*.partial'):
            path.unlink(missing_ok=True)


def point_to(checkpoint: Path) -> None:
    """Make a checkpoint the one that ``--resume`` takes."""
    with whole_file(checkpoint.with_name(_POINTER)) as partial:
        partial.write_text(str(checkpoint))


class Found(NamedTuple):
    """A checkpoint to go on from.

    Attributes:
        path: of the file.
        meta: what mmengine wrote beside the weights: epoch, iter, seed, ...
        note: why it is not the one that was written last, or ''.
    """

    path: Path
    meta: dict[str, Any]
    note: str = ''


def read_meta(checkpoint: str | Path) -> dict[str, Any]:
    """Return what mmengine wrote beside the weights.

    Raises:
        WeightsError: the file cannot be read, or training did not write it.
    """
    file = read_checkpoint(str(checkpoint))
    meta = file.extras.get('meta')
    counts = [meta.get(k) for k in ('epoch', 'iter')] if isinstance(meta, dict) else []
    if not counts or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise WeightsError(
            f'{checkpoint} does not say at which step it was written: it is no '
            'checkpoint of a training, and nothing can be resumed from it. To start '
            'from its weights: --cfg-options load_from=FILE.'
        )
    if 'optimizer' not in file.extras:
        raise WeightsError(
            f'{checkpoint} holds no optimizer state (save_optimizer=False, or a '
            'published file): training cannot go on from it. To start from its '
            'weights: --cfg-options load_from=FILE.'
        )
    return dict(file.extras['meta'])


def find_checkpoint(folder: str | Path) -> Found | None:
    """Return the latest whole checkpoint of a work folder, None if there is none.

    That is the one that ``last_checkpoint`` names; if it is gone or damaged, the one
    with most steps of those that are whole.

    Raises:
        WeightsError: there are checkpoints, and none is whole.
    """
    folder = Path(folder)
    named = _named(folder)
    reasons = {}
    if named is not None:
        try:
            return Found(named, read_meta(named))
        except WeightsError as error:
            reasons[named] = str(error)
    whole = []
    for path in sorted(folder.glob('*.pth')):
        if path not in reasons:
            try:
                whole.append(Found(path, read_meta(path)))
            except WeightsError as error:
                reasons[path] = str(error)
    if whole:
        best = max(whole, key=lambda one: int(one.meta['iter']))
        return best._replace(note=next(iter(reasons.values()), ''))
    present = [path for path in reasons if path.exists()]
    if present:
        raise WeightsError(
            f'no checkpoint in {folder} can be resumed from. {reasons[present[0]]} '
            'Train into another --work-dir.'
        )
    return None


def _named(folder: Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, wherever it lies now."""
    try:
        text = (folder / _POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not text or '\0' in text:
        return None
    path = Path(text)  # relative to the folder in which training was started
    beside = folder / path.name
    return beside if beside.is_file() or not path.is_file() else path


def existing(folder: str | Path) -> list[str]:
    """Return the names of the checkpoints in a work folder."""
    found = (
        path.name
        for pattern in ('epoch_*.pth', 'iter_*.pth', 'best_*.pth')
        for path in Path(folder).glob(pattern)
    )
    return sorted(found)
