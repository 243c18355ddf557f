"""Show a training run as one progress bar, and keep its losses."""

from __future__ import annotations

import time
from typing import Any

from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressHook(Hook):  # type: ignore[misc]
    """Drive a progress bar with loss and time left.

    Where the output is not a terminal (a log file, CI), a plain line is printed every
    tenth of the run instead.

    Args:
        console: where to draw.

    Attributes:
        losses: total loss of every iteration so far.
        metrics: what the last evaluation returned.
    """

    def __init__(self, console: Console) -> None:
        self.losses: list[float] = []
        self.metrics: dict[str, float] = {}
        self._console = console
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[loss]}'),
            TimeElapsedColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def before_train(self, runner: Any) -> None:
        """Open the bar."""
        self._start = time.monotonic()
        self._task = self._progress.add_task(
            'training', total=runner.max_iters, loss='loss ...'
        )
        self._progress.start()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Record the loss and move the bar."""
        self.losses.append((outputs or {})['loss'].item())
        recent = self.losses[-20:]
        loss = f'loss {sum(recent) / len(recent):.3f}'
        self._progress.update(self._task, advance=1, loss=loss)
        done, total = len(self.losses), runner.max_iters
        if not self._console.is_terminal and done % max(total // 10, 1) == 0:
            left = (time.monotonic() - self._start) / done * (total - done)
            self._console.print(f'  {done}/{total}  {loss}  {left:.0f} s left')

    def before_val(self, runner: Any) -> None:
        """Announce the evaluation under the bar."""
        self._progress.stop()
        self._console.print('evaluating on the held-out images ...')

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the metrics."""
        self.metrics = dict(metrics or {})

    def close(self) -> None:
        """Stop drawing, also after an error."""
        self._progress.stop()
