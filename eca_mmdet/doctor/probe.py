"""Import what may be broken in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eca_mmdet.utils.text import printable

LIMIT_S = 180.0
"""For the imports of one process, seconds; a cold disk takes a minute for torch."""

STEPS_FILE = Path(__file__).with_name('steps.py')

NEEDS = {
    'cuda': ('torch',),
    'torchvision': ('torch',),
    'pycocotools': ('numpy',),
    'mmengine': ('torch',),
    'mmcv': ('mmengine', 'cv2'),
    'mmcv._ext': ('mmcv',),
    'mmcv.ops': ('mmcv._ext', 'torchvision'),
    'mmdet': ('mmcv',),
}
"""Step to the steps that it cannot do without."""

_RUN = (
    'import json, runpy, sys; file, path, *names = sys.argv[1:]; '
    'sys.path[:] = json.loads(path); sys.argv[1:] = names; '
    'runpy.run_path(file, run_name="__main__")'
)


@dataclass(frozen=True)
class Result:
    """How a step went.

    Attributes:
        value: what it returned; None if it failed.
        error: type of the exception, or 'died'.
        message: of the exception, or how the process ended; one line.
        missing: name of the module that was not found.
        blocked_by: a step that failed before, for want of which it was not tried.
        warnings: that Python code gave.
    """

    value: dict[str, Any] | None = None
    error: str = ''
    message: str = ''
    missing: str = ''
    blocked_by: str = ''
    warnings: tuple[str, ...] = field(default=())

    @property
    def works(self) -> bool:
        """Whether the step was done."""
        return self.value is not None

    def said(self, text: str) -> bool:
        """Tell whether the exception or a warning says ``text``."""
        return any(text in one for one in (self.message, *self.warnings))


def probe(steps: Sequence[str], limit_s: float = LIMIT_S) -> dict[str, Result]:
    """Do the steps, in as few processes as their failures allow.

    Args:
        steps: names of :mod:`eca_mmdet.doctor.steps`, or modules to import; each after
            those that it needs.
        limit_s: for each process, seconds.

    Returns:
        A result for each step; ``''`` is what the processes wrote to stderr.
    """
    results: dict[str, Result] = {}
    noise = ''
    left = list(steps)
    while left:
        blocked = next((n for n in NEEDS.get(left[0], ()) if _failed(n, results)), None)
        if blocked:
            results[left.pop(0)] = Result(blocked_by=blocked)
            continue
        count = next(
            (i for i, name in enumerate(left) if _waits(name, results)), len(left)
        )
        records, ended, said = run_child(STEPS_FILE, left[:count], limit_s)
        noise += said
        begun = [one['begin'] for one in records if 'begin' in one]
        for one in records:
            if 'step' in one:
                results[one['step']] = _result(one)
        if not begun:  # Python itself does not start
            return results | {n: Result(error='died', message=ended) for n in left}
        if begun[-1] not in results:
            results[begun[-1]] = Result(error='died', message=ended)
        left = [name for name in left if name not in results]
    results[''] = Result(message=noise)
    return results


def _failed(name: str, results: dict[str, Result]) -> bool:
    return name in results and not results[name].works


def _waits(name: str, results: dict[str, Result]) -> bool:
    """Tell whether a step waits for one that failed."""
    return any(_failed(one, results) for one in NEEDS.get(name, ()))


def _result(record: dict[str, Any]) -> Result:
    warned = tuple(one_line(text) for text in record['warnings'])
    if 'error' not in record:
        return Result(value=record['value'], warnings=warned)
    return Result(
        error=record['error'],
        message=one_line(record['message']) or record['error'],
        missing=record['missing'] or '',
        warnings=warned,
    )


def run_child(
    file: Path, names: Sequence[str], limit_s: float
) -> tuple[list[dict[str, Any]], str, str]:
    """Run a file of ours with this Python's search path.

    Returns:
        The JSON lines that it wrote; how it ended, '' for well; and its stderr.
    """
    argv = [sys.executable, '-c', _RUN, str(file), json.dumps(sys.path), *names]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=_folder(),
            timeout=limit_s,
        )
        out, said, ended = done.stdout, done.stderr, _ending(done.returncode)
    except subprocess.TimeoutExpired as late:
        out, said = late.stdout or b'', late.stderr or b''
        ended = f'did not end within {limit_s:g} s'
    except OSError as error:  # no memory for a process, say
        return [], f'no process could be started: {error}', ''
    stderr = said.decode(errors='replace')
    if ended and stderr.strip():
        ended += f' ({one_line(stderr.strip().splitlines()[-1])})'
    return list(_records(out)), ended, stderr


def _folder() -> str | None:
    """Return where to run: here, unless this folder was deleted."""
    try:
        os.getcwd()
    except OSError:
        return os.sep
    return None


def _records(out: bytes) -> Iterator[dict[str, Any]]:
    """Yield the records; the last line may have been cut off."""
    for line in out.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _ending(code: int) -> str:
    if code >= 0:
        return f'ended Python with exit code {code}' if code else ''
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f'signal {-code}'
    return f'ended Python with {name}'


def one_line(text: str) -> str:
    """Return the telling part of a message, at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(' '.join(lines))[:300]
