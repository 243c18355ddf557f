"""Write ``metrics.json`` after every evaluation, whichever command runs it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from eca_mmdet import compat
from eca_mmdet.utils.io import describe_file, write_json


@HOOKS.register_module()
class MetricsFileHook(Hook):  # type: ignore[misc]
    """Write what ``CocoTableMetric`` recorded into the log folder of the run.

    ``metrics.json`` is the last evaluation; of those during training each also has its
    ``metrics_epoch_12.json`` or ``metrics_iter_520.json``. The last one alone also says
    where the detector goes wrong: ``analysis``, as ``eca-mmdet eval --analysis`` has
    it, which takes a few seconds for the whole of COCO.
    """

    priority = 'LOWEST'
    """After mmengine's CheckpointHook, whose ``save_best`` writes the file of this step
    once more: its sha256 is recorded."""

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Write after a validation during training."""
        loop = compat.train_loop(runner)
        if not isinstance(loop, BaseLoop):  # a validation alone
            self._after(runner, runner.val_evaluator)
            return
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        unit, at = ('epoch', runner.epoch) if by_epoch else ('iter', runner.iter)
        saved = runner.message_hub.get_info('last_ckpt', None)
        # Validation follows saving, so that a file of this very step is what was
        # measured; an older one is not.
        current = saved and Path(saved).stem == f'{unit}_{at}'
        more = {unit: at, 'checkpoint': _describe(saved if current else None)}
        self._write(runner, runner.val_evaluator, more, f'metrics_{unit}_{at}.json')

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Write after a test."""
        self._after(runner, runner.test_evaluator)

    def _after(self, runner: Any, evaluator: Any) -> None:
        self._write(
            runner, evaluator, {'checkpoint': _describe(compat.load_path(runner))}
        )

    def _write(
        self, runner: Any, evaluator: Any, more: dict[str, Any], name: str = ''
    ) -> None:
        records = [getattr(one, 'record', None) for one in evaluator.metrics]
        found = [record for record in records if record]
        if not found or not is_main_process():
            return
        record = copy.deepcopy(found[0])
        if found[1:]:  # each with its own file, limits and notes
            record['other_evaluators'] = found[1:]
        record['config'] = (
            Path(runner.cfg.filename).stem if runner.cfg.filename else None
        )
        if runner.cfg.get('fast'):
            record['fast'] = True  # eca-mmdet test --fast: not the weights' exact AP
        record |= more
        folder = Path(runner.log_dir)
        if name:
            write_json(folder / name, record)
        write_json(folder / 'metrics.json', record)
        # Then once more: whatever happens in the analysis, the numbers are there.
        analysis = _analyze(evaluator.metrics, runner)
        if analysis:
            write_json(folder / 'metrics.json', {**record, 'analysis': [analysis]})
        runner.logger.info(f'all numbers: {folder / "metrics.json"}')


def _analyze(metrics: Any, runner: Any) -> dict[str, Any]:
    """Return the errors of the first evaluator that knows them, by task."""
    for one in metrics:
        if getattr(one, 'record', None) and hasattr(one, 'analyze'):
            try:
                return dict(one.analyze())
            except Exception as error:  # must not cost the numbers
                runner.logger.warning(f'the errors were not split by kind: {error!r}')
    return {}


def _describe(checkpoint: str | None) -> dict[str, str] | None:
    """Return name and sha256 of a checkpoint; of an address, the name alone."""
    if not checkpoint:
        return None
    if not Path(checkpoint).is_file():
        return {'file': str(checkpoint)}
    return describe_file(checkpoint)
