"""Record tiny logs with mmengine's own Runner: python record_logs.py OUT KEPT.

KEPT gets the logs of what is trained in OUT; see the README beside this file.
"""

import logging
import re
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset


@MODELS.register_module()
class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def forward(self, inputs, target, mode='tensor'):
        if not isinstance(inputs, torch.Tensor):
            inputs, target = torch.stack(inputs), torch.stack(target)
        found = self.line(inputs)
        error = (found - target) ** 2
        return dict(loss_line=error.mean()) if mode == 'loss' else [error.mean()]


@DATASETS.register_module()
class Points(Dataset):
    def __init__(self, count):
        self.points = torch.randn(count, 2, generator=torch.manual_seed(0))

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        point = self.points[index]
        return dict(inputs=point, target=point.sum(0, keepdim=True))


@METRICS.register_module()
class Error(BaseMetric):
    default_prefix = 'coco'

    def process(self, data_batch, data_samples):
        self.results += [float(one) for one in data_samples]

    def compute_metrics(self, results):
        error = sum(results) / len(results)
        return {'bbox_mAP': error, 'traffic light_precision': error / 2}


def config(out, stamp, loop, resume):
    """Train 23 iterations an epoch, log every 10."""
    by_epoch = loop['type'] == 'EpochBasedTrainLoop'
    loader = dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    evaluate = dict(loader, dataset=dict(type='Points', count=6))
    return dict(
        model=dict(type='Line'),
        work_dir=str(out),
        train_dataloader=dict(loader, dataset=dict(type='Points', count=46)),
        train_cfg=loop,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.02), clip_grad=dict(max_norm=10)
        ),
        val_dataloader=evaluate,
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='Error'),
        test_dataloader=evaluate,
        test_cfg=dict(type='TestLoop'),
        test_evaluator=dict(type='Error'),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=10),
            checkpoint=dict(
                type='CheckpointHook',
                interval=1 if by_epoch else 20,
                by_epoch=by_epoch,
            ),
        ),
        log_processor=dict(by_epoch=by_epoch),
        resume=resume is not None,
        load_from=resume and str(resume),
        experiment_name=f'{out.name}-{stamp}',
        randomness=dict(seed=0),
    )


def run(out, stamp, loop, resume=None, test=False):
    """Train or test, in a folder named as if begun at ``stamp``."""
    original = time.strftime
    time.strftime = lambda form, *args: (
        stamp if form == '%Y%m%d_%H%M%S' else original(form, *args)
    )
    try:
        runner = Runner.from_cfg(Config(config(out, stamp, loop, resume)))
    finally:
        time.strftime = original
    runner.test() if test else runner.train()
    logging.shutdown()


def keep(run_folder, kept):
    """Copy the logs, without the environment and the hooks, which are long."""
    for path in sorted(run_folder.glob('2*/**/*')):
        if path.is_file():
            copy = kept / path.relative_to(run_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text()
            if path.suffix == '.log':
                text = re.sub(
                    r'-{60}\nSystem environment.*?\n-{60}\n', '', text, flags=re.S
                )
                text = re.sub(
                    r'(?s)(Hooks will be.*?\n)before_run.*?(?=\d{4}/)', r'\1', text
                )
            copy.write_text(text)


def main(out, kept):
    epochs = dict(type='EpochBasedTrainLoop', max_epochs=3)
    iterations = dict(type='IterBasedTrainLoop', max_iters=55, val_interval=25)
    run(out / 'epochs', '20240101_100000', epochs)
    # Two epochs; then again from the end of the first, to three.
    resumed = out / 'epochs_resumed'
    run(resumed, '20240102_100000', dict(epochs, max_epochs=2))
    run(resumed, '20240102_110000', epochs, resume=resumed / 'epoch_1.pth')
    resumed = out / 'iterations_resumed'
    run(resumed, '20240103_100000', dict(iterations, max_iters=40))
    run(resumed, '20240103_110000', iterations, resume=resumed / 'iter_20.pth')
    run(resumed, '20240103_120000', iterations, test=True)
    run(out / 'short', '20240104_100000', dict(iterations, max_iters=5))
    run(out / 'one_epoch', '20240105_100000', dict(epochs, max_epochs=1))
    for folder in sorted(out.iterdir()):
        keep(folder, kept / folder.name)


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
