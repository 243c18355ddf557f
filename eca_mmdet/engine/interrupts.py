"""ctrl-C and SIGTERM: training stops between two steps, with a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Forks:
    """Whether this process is being forked: Python drops what is raised then."""

    now = False

    @classmethod
    def begin(cls) -> None:
        cls.now = True

    @classmethod
    def end(cls) -> None:
        cls.now = False


# Before those of other modules begin, and after they end.
os.register_at_fork(
    before=_Forks.begin, after_in_parent=_Forks.end, after_in_child=_Forks.end
)


class Interrupted(KeyboardInterrupt):  # noqa: N818 - it is one
    """Training was asked to stop by a signal, and has, between two steps."""

    def __init__(self, number: int, message: str = '') -> None:
        super().__init__(message)
        self.signal = number


class Interrupts:
    """Signal handlers for the time of a ``with`` block.

    Attributes:
        requested: number of the signal that came, or 0.
        agreed: number of one that every process of the job knows of, or 0. Another may
            come while they talk, and is of the next step.
        at_once: raise as soon as one comes; False keeps it until the work in hand is
            done and :meth:`stop_if_agreed` or :meth:`stop_if_asked` is called. A second
            one always raises.
        ignored: do nothing, while the last checkpoint is being written.
    """

    def __init__(self) -> None:
        self.requested = self.agreed = 0
        self.at_once = True
        self.ignored = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # only the main thread may; others get none
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data loader's worker, which the main process ends
        if self.ignored:
            return
        again, self.requested = bool(self.requested), number
        if (self.at_once or again) and not _Forks.now:
            raise Interrupted(number)
        # Logging takes locks, which a signal handler must not wait for.
        sys.stderr.write(
            'stopping when this step or validation is done, with a checkpoint; '
            'once more stops at once, without\n'
        )
        sys.stderr.flush()

    def stop_if_agreed(self) -> None:
        """Raise for a signal that every process knows of."""
        if self.agreed:
            raise Interrupted(self.agreed)

    def stop_if_asked(self) -> None:
        """Raise for a signal that was held back."""
        if self.requested:
            raise Interrupted(self.requested)
