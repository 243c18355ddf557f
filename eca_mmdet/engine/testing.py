"""Evaluate a detector's checkpoint on the test set of a config."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eca_mmdet import registration
from eca_mmdet.checkpoints.download import fetch, is_address
from eca_mmdet.checkpoints.io import each_read_once, read_checkpoint, read_weights
from eca_mmdet.datasets.detections import TASKS, results_path, submission_path
from eca_mmdet.engine import distributed
from eca_mmdet.engine.checkpointing import POINTER, checkpoint_of
from eca_mmdet.engine.config import (
    embedded_config,
    evaluators,
    forbid_code_in_files,
    load_config,
    set_work_dir,
    type_name,
)
from eca_mmdet.engine.failures import as_user_error
from eca_mmdet.engine.preflight import check
from eca_mmdet.evaluation.bootstrap import subtract
from eca_mmdet.evaluation.coco_eval import COCO_METRICS, OWN_METRICS
from eca_mmdet.evaluation.tables import ap_table, render, rows_of
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_free

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook


_OF_METRIC = (
    *('ann_file', 'metric', 'classwise', 'max_dets', 'backend', 'prefix'),
    *('proposal_nums', 'iou_thrs', 'metric_items', 'sort_categories'),
)
"""What an embedded config may say of a metric: nothing of it writes or removes files,
as ``outfile_prefix`` and ``collect_dir`` do."""


@dataclass(frozen=True)
class Evaluation:
    """Result of a test."""

    metrics: dict[str, float]  # AP 0-1, e.g. metrics['coco/bbox_AP']
    log_dir: Path  # with the log and metrics.json
    seconds: float  # for reading, predicting and evaluating
    baseline: dict[str, float] | None = None  # metrics without fast, on request

    @property
    def table(self) -> str:
        """COCO's AP and AR, 0-100; '' for other metrics."""
        rows = rows_of(self.metrics)
        return ap_table(rows) if rows else ''


def test(
    config: str | Path | Config | None,
    checkpoint: str | Path,
    work_dir: str | Path | None = None,
    *,
    options: Sequence[str] = (),
    classwise: bool = False,
    save_results: str | Path | None = None,
    format_only: bool = False,
    fast: Any = None,
    compare: bool = False,
    launcher: str = 'none',
    local_rank: int = 0,
    dist_timeout: int | None = None,
    display: Hook | None = None,
) -> Evaluation:
    """Run a detector over the test set of a config, and evaluate it.

    >>> import eca_mmdet
    >>> name = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
    >>> result = eca_mmdet.test(name, 'epoch_12.pth')  # doctest: +SKIP
    >>> print(result.table)  # doctest: +SKIP

    Args:
        config: shipped name, a file, or what ``load_config`` returned; None for the one
            embedded in the checkpoint, nothing of which is run.
        checkpoint: path or URL, or a training's work folder: its best or else last
            checkpoint. Loading it never runs code.
        work_dir: for the log; default: ``test`` in the work folder of the training that
            wrote the checkpoint; without one, the config's, or ``work_dirs/NAME``.
        options: overrides as ``KEY=VALUE``.
        classwise: also AP of each class.
        save_results: folder for the detections as COCO result files.
        format_only: evaluate nothing; also write COCO's submission zip.
        fast: a :class:`~eca_mmdet.inference.fast.FastTestHook`, to test a fast copy.
        compare: test without ``fast`` first, and log the difference.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank: of this process on its machine, where the launcher sets none.
        dist_timeout: seconds that a process waits for the others.
        display: shows the progress in place of mmengine's log, which then goes to its
            file alone.

    Raises:
        UserError: a check failed, or the checkpoint does not fit the config.
    """
    if compare and (fast is None or save_results or format_only):
        raise UserError(
            '--compare evaluates twice, without and with --fast, and saves no '
            'detections: give --fast, and leave --save-results and --format-only to a '
            'run of their own.',
            code='option-conflict',
        )
    checkpoint = checkpoint_of(checkpoint)
    with each_read_once():
        if not is_address(checkpoint):
            read_checkpoint(checkpoint)  # before mmdet is loaded, in seconds
        config = _embedded(checkpoint) if config is None else config
        cfg = load_config(config, options, launcher, local_rank, dist_timeout)
        set_work_dir(cfg, work_dir or _folder_beside(checkpoint))
        cfg.load_from, cfg.resume = checkpoint, False
        set_outputs(cfg, classwise, save_results, format_only)
        from eca_mmdet.engine.load_from import check_start
        from eca_mmdet.engine.runner import build_runner

        with distributed.job(cfg):
            check(cfg, training=False)
            try:
                runner = build_runner(cfg, display)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise UserError(
                    f'work folder {cfg.work_dir} cannot be written to: {error}.',
                    code='file-not-written',
                ) from error
            check_start(cfg, runner, exact=True)
            with as_user_error(runner), distributed.ending_workers(runner):
                return _compare(runner, fast) if compare else _evaluate(runner, fast)


def _embedded(checkpoint: str) -> Config:
    """Return what a test needs of the config embedded in a checkpoint.

    Anything else in it could write to any file: hooks, visualizers, other metrics.
    """
    from mmengine.config import Config

    if is_address(checkpoint):
        checkpoint = str(fetch(checkpoint))
    file = read_weights(checkpoint)
    forbid_code_in_files()
    registration.register()
    cfg = embedded_config(file, data=True)
    metrics = []
    for metric in evaluators(cfg, 'test'):
        # Without a scope, which mmengine would import.
        kind = type_name(metric) if isinstance(metric, dict) else metric
        if kind not in COCO_METRICS:
            raise UserError(
                f'the config in {checkpoint} has {kind!r} as test_evaluator; without '
                f'its file, only {", ".join(COCO_METRICS)} are run. Name the config: '
                'eca-mmdet test CONFIG CHECKPOINT.',
                code='config-invalid',
            )
        kept = {key: metric[key] for key in _OF_METRIC if key in metric}
        metrics.append({**kept, 'type': kind})
    values = {
        'model': cfg.get('model'),
        'test_dataloader': cfg.get('test_dataloader'),
        'test_evaluator': metrics,
        'test_cfg': {'type': 'TestLoop'},
        'custom_hooks': [{'type': 'MetricsFileHook'}],
    }
    # mmengine's name of the training is that of its config and a date. Results have it.
    name = re.sub(r'_\d{8}_\d{6}$', '', str(file.meta.get('experiment_name')))
    name = name if re.fullmatch(r'\w[\w.+-]*', name) else Path(checkpoint).stem
    return Config(values, file.config, f'{name}.py')


def _folder_beside(checkpoint: str) -> Path | None:
    """Return the folder for tests in the work folder of a training, if it is one."""
    folder = Path(checkpoint).parent
    if (folder / POINTER).is_file() and os.access(folder, os.W_OK):
        return folder / 'test'
    return None


def _evaluate(runner: Any, fast: Any) -> Evaluation:
    if fast is not None:
        runner.register_hook(fast, priority='LOWEST')
    start = time.monotonic()
    metrics = runner.test()
    return Evaluation(metrics, Path(runner.log_dir), time.monotonic() - start)


def _compare(runner: Any, fast: Any) -> Evaluation:
    """Test without and with a hook, and log the difference."""
    exact = _evaluate(runner, None)
    record = exact.log_dir / 'metrics.json'
    if distributed.is_main_process() and record.is_file():
        record.rename(record.with_name('metrics_float32.json'))
    runner.register_hook(fast, priority='LOWEST')
    start = time.monotonic()
    # Only the loop: the runner has been set up, and hooks prepare a run once.
    metrics = runner.test_loop.run()
    seconds = time.monotonic() - start
    runner.logger.info(comparison(exact.metrics, metrics))
    images = len(runner.test_dataloader.dataset)
    runner.logger.info(
        f'{images} images, reading and evaluation included: {exact.seconds:.1f} s, '
        f'fast {seconds:.1f} s'
    )
    return Evaluation(metrics, exact.log_dir, seconds, exact.metrics)


def comparison(exact: dict[str, float], fast: dict[str, float]) -> str:
    """Return a table of the metrics without and with --fast, and the difference.

    COCO's columns where ``CocoTableMetric`` counted them; a line for each number of
    another metric.
    """
    before, after = rows_of(exact), rows_of(fast)
    if not before:
        cells = [
            [name, f'{exact[name]:.4f}', f'{fast[name]:.4f}', f'{change:+.4f}']
            for name in sorted(exact.keys() & fast.keys())
            for change in [fast[name] - exact[name]]
        ]
        heading = ['', 'float32', 'fast', 'difference']
        return f'What --fast changes:\n{render(heading, cells, "table")}'
    rows = {}
    for task in before:
        rows[f'{task}, float32'] = before[task]
        rows[f'{task}, fast'] = after[task]
        rows[f'{task}, difference'] = subtract(before[task], after[task])
    signed = [name for name in rows if name.endswith('difference')]
    return f'What --fast changes, 0-100:\n{ap_table(rows, signed=signed)}'


def set_outputs(
    cfg: Any,
    classwise: bool = False,
    save_results: str | Path | None = None,
    format_only: bool = False,
) -> None:
    """Set what the COCO evaluators of a config print and write."""
    if format_only and not save_results:
        raise UserError(
            '--format-only needs --save-results DIR, to write there.',
            code='option-conflict',
        )
    if save_results == '':
        raise UserError(
            '--save-results needs a folder; got an empty name.', code='option-invalid'
        )
    if not (classwise or save_results):
        return
    known = OWN_METRICS if format_only else COCO_METRICS
    metrics = evaluators(cfg, 'test')
    coco = [metric for metric in metrics if type_name(metric) in known]
    if not coco:
        raise UserError(
            f'--classwise, --save-results and --format-only need one of the metrics '
            f'{", ".join(known)} as test_evaluator; {cfg.filename} has none.',
            code='option-conflict',
        )
    for index, metric in enumerate(coco, 1):
        if classwise:
            metric.classwise = True
        if save_results:
            many = f'-{index}' if len(coco) > 1 else ''
            prefix = Path(save_results) / f'{Path(cfg.filename).stem}{many}'
            for task in TASKS:
                results = results_path(prefix, task)
                zipped = submission_path(
                    prefix.parent / task, str(metric.get('ann_file')), prefix.name
                )
                require_free(results, zipped, option='--save-results')
            metric.outfile_prefix, metric.format_only = str(prefix), format_only
    if save_results:
        try:
            Path(save_results).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=save_results):
                pass
        except OSError as error:
            raise UserError(
                f'--save-results: nothing can be written to {Path(save_results)}: '
                f'{error}',
                code='file-not-written',
            ) from error
