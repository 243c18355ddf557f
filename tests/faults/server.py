"""Runs commands, each in a fork of one warm process, and says how they ended.

mmdet takes six seconds to import: it is imported once. A fork is a process of its own
all the same: a crash, a hang, memory or a changed setting of one case stays in it.

Line by line on stdin: {"words", "folder", "seconds"}; on stdout: what ``_answer`` and
``_child`` return.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

NET_MIB = 6 * 1024
"""A process that wants so much more than at its start is denied it."""

_WATCHED = (
    'os.system os.exec os.posix_spawn os.fork os.forkpty pty.spawn subprocess.Popen '
    'socket.connect socket.getaddrinfo ctypes.dlopen webbrowser.open'
).split()
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def main() -> None:
    """Import what the commands need, then answer until stdin ends."""
    channel = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # whatever is printed here is none of the answers
    _warm_up()
    print('ready', file=channel, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=channel, flush=True)


def _warm_up() -> None:
    import cv2
    import torch

    from eca_mmdet import registration
    from eca_mmdet.checkpoints import reading

    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # threads do not come along into a fork
    registration.register()
    reading.allow_mmengine_checkpoints()
    import matplotlib.pyplot  # noqa: F401
    import mmdet.apis  # noqa: F401

    # For each config that inherits one of mmdet's, mmengine reads 400 metafiles.
    from mmengine.config import Config, utils

    import tests.faults.originals  # noqa: F401
    from eca_mmdet.catalog.configs import resolve_config

    utils.load = functools.cache(utils.load)
    Config.fromfile(str(resolve_config('retinanet_eca-r18-w16_fpn_shapes')))


def _answer(task: dict) -> dict:
    folder = Path(task['folder'])
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(task, folder)
    status = _wait(child, task['seconds'])
    answer = {'seconds': time.monotonic() - start, 'hung': status is None}
    for name in ('out', 'err'):
        with contextlib.suppress(FileNotFoundError):
            text = (folder / f'.{name}').read_bytes()
            answer[name] = text[-20_000:].decode('utf-8', 'replace')
    with contextlib.suppress(FileNotFoundError, ValueError):
        answer |= json.loads((folder / '.answer').read_text())
    answer['signal'] = os.WTERMSIG(status) if status and os.WIFSIGNALED(status) else 0
    return answer


def _wait(child: int, seconds: float) -> int | None:
    """Return how a process ended; None if it had to be killed."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _child(task: dict, folder: Path) -> None:
    """Run the command and leave the process; nothing of this returns."""
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(folder / f'.{name}', os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = open(1, 'w', closefd=False)
    sys.stderr = open(2, 'w', closefd=False)
    os.chdir(folder / 'work')
    os.environ['TMPDIR'] = tempfile.tempdir = str(folder / 'tmp')
    faulthandler.enable()
    faulthandler.dump_traceback_later(task['seconds'] * 0.9, exit=True)
    before = _memory('VmData')
    resource.setrlimit(resource.RLIMIT_DATA, ((before + NET_MIB) << 20,) * 2)
    Path('/proc/self/clear_refs').write_text('5')
    before = _memory('VmRSS')
    seen: list[str] = []
    armed = [True]
    sys.addaudithook(lambda event, args: _watch(event, args, folder, seen, armed))
    answer = _outcome(task)
    armed[0] = False
    answer |= {'events': seen, 'mib': _memory('VmHWM') - before}
    (folder / '.answer').write_text(json.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _outcome(task: dict) -> dict:
    from eca_mmdet import cli

    try:
        if task.get('call'):
            module, _, name = task['call'].partition(':')
            getattr(sys.modules[module], name)(*task['words'])
            return {'code': 0}
        return {'code': cli.main(task['words'])}
    except SystemExit as stop:
        return {'code': stop.code}
    except BaseException:
        return {'code': None, 'error': traceback.format_exc()[-4000:]}


def _watch(event: str, args: tuple, folder: Path, seen: list, armed: list) -> None:
    if not armed[0]:
        return
    if event in _WATCHED:
        seen.append(f'{event} {str(args)[:200]}')
    path = args[0] if event in ('open', 'os.mkdir') else None
    if not isinstance(path, (str, bytes)) or (
        event == 'open' and not args[2] & _WRITES
    ):
        return
    path = os.path.abspath(os.fsdecode(path))
    own = (f'{folder}/', os.environ['HOME'], os.environ['MPLCONFIGDIR'], '/dev/null')
    if not path.startswith((*own, os.environ['TORCHINDUCTOR_CACHE_DIR'])):
        seen.append(f'{event} {path}')


def _memory(key: str) -> int:
    """Return an entry of this process's status, in MiB."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) >> 10
    raise KeyError(key)


if __name__ == '__main__':
    main()
