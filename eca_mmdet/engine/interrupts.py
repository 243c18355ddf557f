"""ctrl-C and SIGTERM: training stops between two steps, with a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


_forking: list[bool] = []
"""Not empty while this process is being forked: Python drops what is raised then."""

# Called before those of other modules begin, and after they end.
os.register_at_fork(
    before=lambda: _forking.append(True),
    after_in_parent=_forking.clear,
    after_in_child=_forking.clear,
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

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A data loader's worker is ended by the main process.
        if self.ignored or os.getpid() != self._process:
            return
        again, self.requested = bool(self.requested), number
        if (self.at_once or again) and not _forking:
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
