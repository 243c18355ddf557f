"""A training or a test in a few lines on a console, in place of mmengine's log."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from rich import progress
from rich.console import Console

import eca_mmdet
from eca_mmdet.engine.distributed import unwrapped
from eca_mmdet.evaluation.tables import rows_of
from eca_mmdet.utils.text import first, plural, printable

_RECENT = 20  # steps whose mean loss and times are shown
_TIMES = ('time', 'data_time')


class Display(Hook):  # type: ignore[misc]
    """Show what is trained, the progress, and the best AP so far.

    On a terminal one line is kept up to date. Elsewhere a plain line is printed every
    ``interval`` seconds, and at a training's first and last step. As a context it
    removes the live line also after an error.

    Args:
        console: where to print.
        interval: seconds between two plain lines.
        heading: print data, model, steps and device before the training.
    """

    priority = 'LOWEST'

    def __init__(
        self, console: Console, interval: float = 30, heading: bool = True
    ) -> None:
        self._console, self._interval, self._heading = console, interval, heading
        self._printed = -interval
        self._best: dict[str, tuple[float, str]] = {}
        self._tasks: dict[str, progress.TaskID] = {}
        self._bar = progress.Progress(
            '{task.description}',
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            '{task.fields[text]}',
            console=console,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # a file gets its own lines
            disable=not console.is_interactive,  # nor is a dumb terminal
        )

    def __enter__(self) -> Display:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the live line."""
        self._bar.stop()

    def before_train(self, runner: Any) -> None:
        """Print the heading; a resumed training has a best already."""
        for name, text in _heading(runner).items() if self._heading else ():
            self._print(f'{name:8}{text}')
        logs = runner.message_hub.log_scalars.items()
        best = {k[4:]: log.max() for k, log in logs if k.startswith('val/')}
        for task, row in rows_of(best).items():
            self._best[task] = 100 * (row.get('AP') or 0), 'before resuming'

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Show loss, learning rate, memory, the data's share of the time, time left."""
        done, total = runner.iter + 1, runner.max_iters
        name = 'training'
        if _is_by_epoch(runner):
            name = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
        self._show(name, done, total, lambda: _state(runner), 'train')

    def after_train(self, runner: Any) -> None:
        """Say so if a hook ended the training."""
        stopped = getattr(runner.train_loop, 'stop_training', False)  # of our loops
        if stopped and runner.iter < runner.max_iters:
            self._print(f'stopped early, after {_place(runner)}')

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Count the batches of a validation."""
        self._show('validating', batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Count the batches of a test."""
        self._show('testing', batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Print the best so far; the numbers of metrics that print no table."""
        self._end('validating')
        found = _numbers(metrics)
        rows = rows_of(found)
        if not rows:
            self._print_numbers(found)
            return
        at = _place(runner)
        for task, row in rows.items():
            ap = 100 * (row.get('AP') or 0)
            if task not in self._best or ap > self._best[task][0]:
                self._best[task] = ap, at
        best = (f'{task} AP {ap:.1f} ({at})' for task, (ap, at) in self._best.items())
        self._print(f'best so far: {", ".join(best)}')

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Print the numbers of metrics that print no table."""
        self._end('testing')
        found = _numbers(metrics)
        if not rows_of(found):
            self._print_numbers(found)

    def _show(
        self, name: str, done: int, total: int, text: Any = str, key: str = ''
    ) -> None:
        now = time.monotonic()
        if done == 1 and not key:
            self._printed = now  # validations may be short
        if not self._console.is_interactive:
            last = done == total and key == 'train'
            if last or now - self._printed >= self._interval:
                self._printed = now
                self._print(f'{name}  {done}/{total}  {text()}'.rstrip())
            return
        key = key or name
        if key not in self._tasks:
            self._bar.start()
            self._tasks[key] = self._bar.add_task(name, total=total, text='')
        task = self._tasks[key]
        # Values of a GPU are waited for: not at every step.
        if done == total or now - self._printed >= 0.5:
            self._printed = now
            self._bar.update(task, description=name, text=text())
        self._bar.update(task, completed=done)

    def _end(self, key: str) -> None:
        if key in self._tasks:
            self._bar.remove_task(self._tasks.pop(key))

    def _print_numbers(self, numbers: dict[str, float]) -> None:
        if numbers:  # none with --format-only
            self._print('  '.join(f'{key} {v:.4g}' for key, v in numbers.items()))

    def _print(self, line: str) -> None:
        self._console.out(printable(line), highlight=False)


def _numbers(metrics: dict[str, Any] | None) -> dict[str, float]:
    found = {k: v for k, v in (metrics or {}).items() if k not in _TIMES}
    return {k: float(v) for k, v in found.items() if isinstance(v, Real)}


def _is_by_epoch(runner: Any) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _place(runner: Any) -> str:
    if _is_by_epoch(runner):
        return f'epoch {runner.epoch}'
    return f'step {runner.iter}'


def _heading(runner: Any) -> dict[str, str]:
    """Return what is trained, from a runner whose training begins."""
    loader = runner.train_dataloader
    data = f'{len(loader.dataset):,} images for training'
    if runner.val_loop is not None:
        data += f', {len(runner.val_dataloader.dataset):,} for validation'
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes') or ()
    if classes:
        data += f'; {plural(len(classes), "class")}: {first(classes)}'
    model = unwrapped(runner.model)
    parts = (model, *filter(None, [getattr(model, 'backbone', None)]))
    names = ', '.join(type(part).__name__ for part in parts)
    count = sum(weight.numel() for weight in model.parameters())
    steps = f'{runner.max_iters:,}'
    if _is_by_epoch(runner):
        steps = f'{plural(runner.max_epochs, "epoch")} of {len(loader):,}'
    return {
        'data': data,
        'model': f'{names}, {count / 1e6:.1f} M parameters',
        'steps': steps,
        'device': _device(model, runner.world_size),
        'folder': f'{runner.work_dir}; the whole log: {Path(runner.log_dir).name}',
    }


def _device(model: Any, processes: int) -> str:
    import torch

    device = next(model.parameters()).device
    if device.type == 'cuda':
        name = f'{device}, {torch.cuda.get_device_name(device)}'
    else:
        name = f'{device}, {plural(torch.get_num_threads(), "thread")}'
    return f'{name}, {processes} processes' if processes > 1 else name


def _state(runner: Any) -> str:
    """Return loss, learning rate, memory, share of data loading and time left."""
    import torch

    hub = runner.message_hub
    found = {key: hub.log_scalars.get(f'train/{key}') for key in ('loss', *_TIMES)}
    means = {key: log.mean(_RECENT) for key, log in found.items() if log is not None}
    parts = [f'loss {means["loss"]:.3f}'] if 'loss' in means else []
    rates = runner.optim_wrapper.get_lr()
    for name, values in rates.items():
        if name.endswith('lr') and values:
            parts.append(f'{name} {values[0]:.3g}')
    if torch.cuda.is_available():
        parts.append(f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB')
    if means.get('time'):
        parts.append(f'data {means["data_time"] / means["time"]:.0%}')
    left = hub.runtime_info.get('eta')
    if left is not None:
        parts.append(f'{datetime.timedelta(seconds=round(left))} left')
    return '  '.join(parts)


class Forwarded(logging.Handler):
    """Hand on warnings, and what this package logs through mmengine's logger.

    It takes the place of mmengine's console handler; the log file has everything.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log each line as a message of this package."""
        package = Path(eca_mmdet.__file__).parent
        if record.levelno < logging.WARNING:
            if package not in Path(record.pathname).parents:
                return
        for line in record.getMessage().split('\n'):
            logging.getLogger('eca_mmdet').log(record.levelno, '%s', line)
