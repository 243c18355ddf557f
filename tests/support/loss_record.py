"""A hook for tests: each rank writes its losses; on demand it turns batches around."""

import json
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LossRecord(Hook):
    def __init__(self, reverse=False):
        self.reverse, self.losses = reverse, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.reverse:  # the same images in another order of addition
            for values in data_batch.values():
                values.reverse()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())

    def after_train(self, runner):
        path = Path(runner.work_dir) / f'losses-{get_rank()}.json'
        path.write_text(json.dumps(self.losses))
