"""Run a case in the server, and decide whether it ended as it must."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from eca_mmdet import cli
from tests.conftest import REPOSITORY
from tests.faults.cases import Case

SECONDS = 20.0
MOST_MIB = 500
"""That a process may grow, and more than any of the commands needs here."""
CANARY = 'canary'
"""What the payloads in bad files would create in the folder they run in."""

_OF_LIBRARIES = (
    *('libpng error: ', 'libpng warning: ', 'Corrupt JPEG data: '),
    *('Premature end of JPEG', 'Invalid SOS '),
    *('Unsupported marker type', 'Bogus ', 'TIFF'),
)
"""Lines that libraries print by themselves, whatever is asked of them."""

_HARMLESS = (
    'ctypes.dlopen',
    'open /dev/',
    "subprocess.Popen ('/bin/sh', ['/bin/sh', '-c', 'gcc --version']",  # mmengine's log
)


class Runner:
    """The server's process.

    Args:
        folder: for the originals.
    """

    def __init__(self, folder: Path) -> None:
        self.originals = folder / 'originals'
        (folder / 'home').mkdir()
        (folder / 'tmp').mkdir()
        own = {'OMP_NUM_THREADS': '1', 'MPLCONFIGDIR': str(folder / 'matplotlib')}
        paths = [str(REPOSITORY), os.environ.get('PYTHONPATH', '')]
        own['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
        own |= {'HOME': str(folder / 'home'), 'TMPDIR': str(folder / 'tmp')}
        own |= cli._OPENCV | {'TORCHINDUCTOR_CACHE_DIR': str(folder / 'home')}
        own |= {'HF_HUB_OFFLINE': '1', 'TORCH_HOME': str(folder / 'torch')}
        own |= {'PYTHONDONTWRITEBYTECODE': '1'}
        with open(folder / 'server.log', 'w') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'tests.faults.server'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | own,
                cwd=REPOSITORY,
                text=True,
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != 'ready\n':
            raise RuntimeError((folder / 'server.log').read_text()[-3000:])
        place = folder / 'writing'
        for each in ('work', 'tmp'):
            (place / each).mkdir(parents=True)
        made = self.ask([str(self.originals)], place, call='originals:write', of=120)
        if made.get('code') != 0:
            raise RuntimeError(f'{made.get("error")}\n{made.get("err")}')

    def ask(
        self, words: list[str], folder: Path, call: str = '', of: float = SECONDS
    ) -> dict[str, Any]:
        """Run a command line in ``folder / 'work'``; return how it ended."""
        task = {'words': words, 'folder': str(folder), 'seconds': of}
        if call:
            task['call'] = f'tests.faults.{call}'
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(task) + '\n')
        process.stdin.flush()
        return dict(json.loads(process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def judge(self, case: Case, folder: Path) -> dict[str, Any]:
        """Run a case, raise AssertionError with what was wrong, else return how."""
        words = case.write(folder, self.originals)
        answer = self.ask(words, folder)
        wrong = faults_of(case, answer, folder)
        assert not wrong, '\n'.join([*wrong, str(words), json.dumps(answer, indent=1)])
        return answer


def faults_of(case: Case, answer: dict[str, Any], folder: Path) -> list[str]:
    """Return what is wrong with how a case ended."""
    if answer['hung']:
        return ['it hung']
    if answer['signal']:
        return [f'it was killed by signal {answer["signal"]}']
    if answer.get('error') or 'code' not in answer:
        return ['it raised']
    wrong = []
    if answer['code'] not in case.codes:
        wrong.append(f'exit code {answer["code"]}, not {case.codes}')
    if answer['mib'] > MOST_MIB:
        wrong.append(f'it grew by {answer["mib"]} MiB')
    wrong += [
        f'it did: {one}' for one in answer['events'] if not one.startswith(_HARMLESS)
    ]
    if 'Traceback' in answer['err'] or 'Traceback' in answer['out']:
        wrong.append('it printed a traceback')
    if answer['code'] == 2:
        wrong += _faults_of_message(case, answer['err'], folder)
    return wrong + _faults_of_files(case, answer, folder)


def _faults_of_message(case: Case, err: str, folder: Path) -> list[str]:
    """Look at what stderr has when a command refuses its input."""
    wrong = []
    # OpenCV prints four bytes of the file; one may be the end of a line.
    err = re.sub(
        r'Unexpected element\. Expected: .*?\. Got: .{,8}?\.\n', '', err, flags=re.S
    )
    lines = [one for one in err.splitlines() if not one.startswith(_OF_LIBRARIES)]
    starts = tuple(f'eca-mmdet {" ".join(case.words[:n])}: ' for n in (1, 2))
    said = [line for line in lines if line.startswith(starts)]
    if not said or (case.one_line and len(lines) != 1):
        wrong.append(f'{len(lines)} lines, {len(said)} of them of the command')
    for line in said:
        short = line.replace(str(folder), '')
        if len(short) > case.letters:
            wrong.append(f'a line of {len(short)} letters')
        if not line.isprintable():
            wrong.append('control characters')
    named = case.names if case.names is not None else Path(case.name).name
    if named not in err:
        wrong.append(f'it does not say {named!r}')
    return wrong


def _faults_of_files(case: Case, answer: dict[str, Any], folder: Path) -> list[str]:
    """Look at what was left: of a failure nothing, and never half a file."""
    code = answer['code']
    left = [*(folder / 'work').rglob('*'), *(folder / 'tmp').rglob('*')]
    if 'is not a checkpoint of this config' in answer['err']:
        left = []  # of a test, which keeps its log: the model was built to compare
    names = [str(one.relative_to(folder)) for one in left]
    wrong = [f'left: {one}' for one in names if code == 2]
    wrong += [f'half a file: {one}' for one in names if one.endswith('.partial')]
    wrong += ['the file ran'] * any(CANARY in one.name for one in folder.rglob('*'))
    for one in left if code != 2 else ():
        if one.suffix == '.json' and one.is_file():
            # What split passes on may be as deep as its source was.
            with contextlib.suppress(RecursionError):
                json.loads(one.read_text())
    return wrong
