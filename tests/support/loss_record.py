"""A hook for tests: each rank writes its losses; on demand it disturbs the training."""

import json
import time
from pathlib import Path

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LossRecord(Hook):
    """Record losses.

    Args:
        reverse: turn batches around.
        nan_at: index of the step at which the last rank's images are NaN.
        saving_takes: seconds that writing a checkpoint takes.
    """

    def __init__(self, reverse=False, nan_at=-1, saving_takes=0):
        self.reverse, self.nan_at, self.saving_takes = reverse, nan_at, saving_takes
        self.losses = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.reverse:  # the same images in another order of addition
            for values in data_batch.values():
                values.reverse()
        if runner.iter == self.nan_at and get_rank() == get_world_size() - 1:
            data_batch['inputs'] = [
                image * float('nan') for image in data_batch['inputs']
            ]

    def before_save_checkpoint(self, runner, checkpoint):
        time.sleep(self.saving_takes)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if outputs is not None:  # a batch that is left out has none
            self.losses.append(outputs['loss'].item())

    def after_train(self, runner):
        path = Path(runner.work_dir) / f'losses-{get_rank()}.json'
        path.write_text(json.dumps(self.losses))
