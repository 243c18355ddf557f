"""Start the ranks of a job as processes of their own, without 6 s of imports each.

A server imports mmdet once and forks a process for each rank: real processes with
their own environment, output and end, which run ``eca-mmdet`` as its console script
does. What torchrun itself adds is tested with torchrun.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CODES: dict[int, int] = {}  # of the server's children that have ended
JOB_VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return int(listener.getsockname()[1])


def environments(world: int) -> list[dict[str, str]]:
    """Return what torchrun would tell each of ``world`` processes."""
    port = str(free_port())
    return [
        {
            'RANK': str(rank),
            'LOCAL_RANK': str(rank),
            'WORLD_SIZE': str(world),
            'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': port,
        }
        for rank in range(world)
    ]


@dataclass
class Job:
    """Processes of one job, with a file of each one's stdout and of its stderr."""

    server: Server
    pids: list[int]
    logs: list[Path]
    errors: list[Path]

    def wait(self, *ranks: int, seconds: float = 120) -> list[int | None]:
        """Return the exit codes; minus the signal for a killed one, None if it runs.

        Of all ranks, or of those named.
        """
        pids = [self.pids[rank] for rank in ranks] or self.pids
        return list(self.server.ask({'wait': pids, 'seconds': seconds}))

    def end(self, seconds: float = 120) -> tuple[int | None, str, str]:
        """Wait for the only rank; return (exit code, stdout, stderr)."""
        (code,) = self.wait(seconds=seconds)
        return code, self.logs[0].read_text(), self.errors[0].read_text()

    def output(self, rank: int) -> str:
        """Return what a rank has printed, stdout and then stderr."""
        files = self.logs[rank], self.errors[rank]
        there = (path for path in files if path.exists())
        return ''.join(path.read_text(errors='replace') for path in there)

    def ends_whole(self, seconds: float = 20) -> bool:
        """Tell whether the workers of the only rank end, too, in that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                os.killpg(self.pids[0], 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False

    def wait_for(self, rank: int, text: str, seconds: float = 60) -> None:
        """Return as soon as a rank has printed ``text``."""
        end = time.monotonic() + seconds
        while text not in self.output(rank):
            assert time.monotonic() < end, f'no {text!r} in:\n{self.output(rank)}'
            time.sleep(0.05)

    def kill(self, rank: int, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pids[rank], number)


class Server:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, 0
        self.pids: list[int] = []
        self.process = subprocess.Popen(
            [sys.executable, '-c', 'from tests.support.ranks import serve; serve()'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={
                **os.environ,
                'PYTHONPATH': str(REPOSITORY),
                'OPENCV_LOG_LEVEL': 'OFF',  # as the command does
            },
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request and return the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self, *argv: Any, ranks: list[dict[str, str]], before: Sequence[Any] = ()
    ) -> Job:
        """Start ``eca-mmdet ARGV`` once for each environment in ``ranks``.

        Args:
            argv: words after the program's name.
            ranks: environments.
            before: name of a function of ``tests.support.sabotage`` to call first,
                in each process, and its arguments.
        """
        self.jobs += 1
        names = [self.folder / f'job{self.jobs}-{n}' for n in range(len(ranks))]
        logs = [path.with_suffix('.out') for path in names]
        errors = [path.with_suffix('.err') for path in names]
        request = {'argv': [str(word) for word in argv], 'ranks': ranks}
        files = {'logs': [*map(str, logs)], 'errors': [*map(str, errors)]}
        pids = self.ask({**request, **files, 'before': list(before)})
        self.pids += pids
        return Job(self, pids, logs, errors)

    def run(self, *argv: Any, ranks: list[dict[str, str]] | None = None) -> Job:
        """Start a job, one process by default, and demand that it succeeds."""
        job = self.start(*argv, ranks=ranks or [{}])
        codes = job.wait()
        assert not any(codes), '\n\n'.join(
            f'rank {n}: {code}\n{job.output(n)[-3000:]}' for n, code in enumerate(codes)
        )
        return job

    def close(self) -> None:
        """End the server, and what a failed test has left running."""
        codes = self.ask({'wait': self.pids, 'seconds': 0})
        for pid in [
            pid for pid, code in zip(self.pids, codes, strict=True) if code is None
        ]:
            os.kill(pid, signal.SIGKILL)
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(20)


def serve() -> None:
    """Answer requests from stdin until it ends."""
    _import_all()
    answers = os.dup(1)
    for line in sys.stdin:
        request = json.loads(line)
        if 'wait' in request:
            answer = _wait(request['wait'], time.monotonic() + request['seconds'])
        else:
            answer = [
                _fork(request['argv'], request['before'], *rank)
                for rank in zip(
                    request['ranks'], request['logs'], request['errors'], strict=True
                )
            ]
        os.write(answers, (json.dumps(answer) + '\n').encode())


def _import_all() -> None:
    """Import what a command needs, and read once what every config inherits."""
    import functools

    import eca_mmdet

    eca_mmdet.registration.register()
    import mmdet.apis  # noqa: F401
    from mmengine.config import Config, utils

    utils.load = functools.cache(utils.load)  # 400 metafiles of mmdet
    for path in (REPOSITORY / 'configs' / 'demo').glob('*.py'):
        Config.fromfile(str(path))
    gc.collect()
    gc.freeze()  # a rank's collector then leaves the shared pages alone


def _fork(
    argv: list[str], before: list[Any], environment: dict[str, str], *files: str
) -> int:
    pid = os.fork()
    if pid:
        CODES.pop(pid, None)  # of an earlier process with this number
        return pid
    from eca_mmdet import cli
    from tests.support import sabotage

    os.setpgrp()  # ctrl-C goes to a group: the process and its workers
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in JOB_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(environment)
    sys.argv = ['eca-mmdet', *argv]
    if before:
        getattr(sabotage, before[0])(*before[1:])
    sys.exit(cli.main(argv))  # the ordinary end of a process, of which we test as well


def _wait(pids: list[int], end: float) -> list[int | None]:
    while True:
        for pid in [pid for pid in pids if pid not in CODES]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                CODES[pid] = os.waitstatus_to_exitcode(status)
        if all(pid in CODES for pid in pids) or time.monotonic() >= end:
            return [CODES.get(pid) for pid in pids]
        time.sleep(0.02)
