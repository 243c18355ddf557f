"""Imports in subprocesses, so that a crash, an abort or a hang is one result."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.utils.text import printable

LIMIT_S = 180.0
"""Time limit of one subprocess in seconds; torch takes a minute from a cold disk."""

STEPS_FILE = Path(__file__).with_name('steps.py')

STEPS: dict[str, tuple[str, ...]] = {
    'numpy': (),
    'torch': (),
    'cuda': ('torch',),
    'torchvision': ('torch',),
    'cv2': (),
    'pycocotools': ('numpy',),
    'hotcoco': (),
    'pkg_resources': (),
    'mmengine': ('torch',),
    'mmcv': ('mmengine', 'cv2'),
    'mmcv.ops': ('mmcv',),
    'mmdet': ('mmcv',),
}
"""Step to the earlier steps it cannot run without."""

_RUN = (
    'import json, runpy, sys; file, path, *names = sys.argv[1:]; '
    'sys.path[:] = json.loads(path); sys.argv[1:] = names; '
    'runpy.run_path(file, run_name="__main__")'
)


@dataclass(frozen=True)
class Result:
    """Result of a step."""

    value: dict[str, Any] | None = None  # None if it failed
    error: str = ''  # type of the exception, or 'died'
    message: str = ''  # of the exception, or how the process ended; one line
    missing: str = ''  # module that was not found
    blocked_by: str = ''  # failed step that it needs, so that it was not run
    warnings: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether the step succeeded."""
        return self.value is not None

    def mentions(self, *texts: str) -> bool:
        """Return whether the exception or a warning contains any of the texts."""
        messages = (self.message, *self.warnings)
        return any(text in message for text in texts for message in messages)


def probe(steps: Sequence[str], limit_s: float = LIMIT_S) -> dict[str, Result]:
    """Run the steps in as few subprocesses as their failures allow.

    Steps are names in :mod:`eca_mmdet.doctor.steps`, or modules to import, each after
    those that it needs. ``limit_s`` is the time limit of each subprocess in seconds.
    """
    results: dict[str, Result] = {}
    left = list(steps)
    while left:
        if blocker := _blocker(left[0], results):
            results[left.pop(0)] = Result(blocked_by=blocker)
            continue
        count = next((i for i, n in enumerate(left) if _blocker(n, results)), len(left))
        records, ending = run_child(STEPS_FILE, left[:count], limit_s)
        begun = [record['begin'] for record in records if 'begin' in record]
        if not begun:
            results |= dict.fromkeys(left, Result(blocked_by='python'))
            return {**results, 'python': Result(error='died', message=ending)}
        results |= {r['step']: _result(r) for r in records if 'step' in r}
        results.setdefault(begun[-1], Result(error='died', message=ending))
        left = [name for name in left if name not in results]
    return results


def _blocker(name: str, results: dict[str, Result]) -> str:
    """Return a failed step that this one needs; '' if it can run."""
    failed = (n for n in STEPS.get(name, ()) if n in results and not results[n].works)
    return next(failed, '')


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
) -> tuple[list[dict[str, Any]], str]:
    """Run a Python file with the search path of this process.

    Returns the JSON objects it wrote, and how it ended ('' if it succeeded).
    """
    argv = [sys.executable, '-c', _RUN, str(file), json.dumps(sys.path), *names]
    streams: Any = dict(stdin=subprocess.DEVNULL, capture_output=True)
    try:
        process = subprocess.run(argv, **streams, timeout=limit_s)
        out, err, code = process.stdout, process.stderr, process.returncode
        ending = f'ended Python with exit code {code}' if code else ''
        if code < 0:
            ending = f'ended Python with signal {-code} ({signal.strsignal(-code)})'
    except subprocess.TimeoutExpired as late:
        out, err = late.stdout or b'', late.stderr or b''
        ending = f'did not end within {limit_s:g} s'
    except OSError as error:  # e.g. no memory for a process
        return [], f'no process could be started: {error}'
    lines = err.decode(errors='replace').strip().splitlines()
    if ending and lines:
        ending += f' ({one_line(lines[-1])})'
    return list(_records(out)), ending


def _records(out: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects; the last line may be incomplete."""
    for line in out.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def one_line(text: str) -> str:
    """Return a message as one printable line of at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(' '.join(lines))[:300]
