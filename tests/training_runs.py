"""Trainings in processes of their own, which are killed at chosen moments.

The processes are forked from one that has loaded mmdet and never computed: starting one
takes milliseconds instead of seconds, and killing one leaves pytest alone.
"""

import functools
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

from eca_mmdet import cli
from eca_mmdet.paths import resolve_config

STEPS = 6


def write_config(path, root, by_epoch=False, **changes):
    """Write a config that trains six steps on the six images below ``root``.

    It inherits nothing, since every ``mmdet::`` base costs a process 0.3 s.

    Args:
        path: of the file.
        root: what ``write_shapes`` made, with images of 96 px.
        by_epoch: three epochs of two steps, else six steps of two images.
        changes: entries by their path, '__' for each dot.
    """
    from mmengine.config import Config

    cfg = Config.fromfile(resolve_config('mask-rcnn_eca-r18-w16_fpn_shapes'))
    small = dict(bbox_head=dict(fc_out_channels=32), mask_head=dict(num_convs=1))
    cfg.merge_from_dict(dict(model=dict(roi_head=small)))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=STEPS, val_interval=3)
    # Warm-up and decay, both under way all the time.
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=3, end=6, T_max=3),
    ]
    cfg.train_dataloader.batch_size = 2
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].dataset.data_root = f'{root}/'
        cfg[f'{loader}_dataloader'].num_workers = 0
        cfg[f'{loader}_dataloader'].persistent_workers = False
    for name in ('val_evaluator', 'test_evaluator'):
        cfg[name].ann_file = f'{root}/annotations/val.json'
    if by_epoch:
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
        cfg.train_dataloader.batch_size = 3
        cfg.train_dataloader.sampler.type = 'DefaultSampler'
        cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
        cfg.default_hooks.checkpoint.merge(dict(by_epoch=True, interval=1))
        cfg.log_processor.by_epoch = True
    cfg.merge_from_dict({key.replace('__', '.'): v for key, v in changes.items()})
    Path(path).write_text(cfg.pretty_text)
    return path


@functools.cache
def _server():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tests.training_runs', 'tests.loaded_mmdet'])
    return context


class Run:
    """A command in a process; its output goes to two files beside the work folder."""

    def __init__(self, words, output, sabotage=None, **environment):
        self.out, self.err = Path(f'{output}.out'), Path(f'{output}.err')
        self.process = _server().Process(
            target=_main,
            args=([str(one) for one in words], self.out, self.err, sabotage),
            kwargs=environment,
        )
        self.process.start()

    def end(self, seconds=120):
        """Wait; return (exit code, stdout, stderr)."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f'still running: {self.err.read_text()[-2000:]}')
        return self.process.exitcode, self.out.read_text(), self.err.read_text()


def train(config, work, *words, sabotage=None, name='', **environment):
    """Start a training; output files lie beside the work folder."""
    words = ['train', config, '--work-dir', work, *words]
    return Run(words, f'{work}{name}', sabotage, **environment)


def _main(words, out, err, sabotage, **environment):
    os.environ.update(environment)
    os.setpgrp()
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # multiprocessing has put /dev/null there; signals are those of a shell's job.
    sys.argv = ['eca-mmdet', *words]
    multiprocessing.set_start_method('fork', force=True)  # as anywhere else
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sabotage:
        name, *arguments = sabotage
        globals()[name](*arguments)
    code = cli.main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step):
    """Kill in the middle of a step: its loss is there, the update is not."""
    from eca_mmdet.training.finite import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        if self._runner.iter == step:
            _die()
        update(self, loss, *args, **kwargs)

    GuardedOptimizer.update_params = update_params


def kill_in_checkpoint(step, share):
    """Kill when a part of a checkpoint's bytes has been written."""
    from eca_mmdet.training import checkpoints

    put = checkpoints.WholeFiles.put

    def dying(self, obj, filepath):
        if not str(filepath).endswith(f'_{step}.pth'):
            return put(self, obj, filepath)
        write = Path.write_bytes

        def write_bytes(path, content):
            write(path, content[: int(len(content) * share)])
            _die()

        Path.write_bytes = write_bytes
        return put(self, obj, filepath)

    checkpoints.WholeFiles.put = dying


def kill_after_checkpoint(step):
    """Kill when a checkpoint is whole, but last_checkpoint does not name it."""
    from eca_mmdet.training import checkpoints

    put = checkpoints.WholeFiles.put

    def dying(self, obj, filepath):
        put(self, obj, filepath)
        if str(filepath).endswith(f'_{step}.pth'):
            _die()

    checkpoints.WholeFiles.put = dying


def kill_in_validation(at):
    """Kill in the ``at``-th validation, its images predicted, its metrics not."""
    from eca_mmdet.evaluation.coco_metric import CocoTableMetric

    compute = CocoTableMetric.compute_metrics
    seen = []

    def compute_metrics(self, results):
        seen.append(1)
        if len(seen) == at:
            _die()
        return compute(self, results)

    CocoTableMetric.compute_metrics = compute_metrics


def interrupt_at_step(step, number=signal.SIGINT):
    """Press ctrl-C in the middle of a step: workers get the signal too."""
    from eca_mmdet.training.finite import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        if self._runner.iter == step:
            os.killpg(os.getpgrp(), number)
        update(self, loss, *args, **kwargs)

    GuardedOptimizer.update_params = update_params


def interrupt_in_validation(number=signal.SIGINT):
    """Press ctrl-C when the images of the first validation have been predicted."""
    from eca_mmdet.evaluation.coco_metric import CocoTableMetric

    def compute_metrics(self, results):
        os.killpg(os.getpgrp(), number)
        raise AssertionError('the signal came too late')

    CocoTableMetric.compute_metrics = compute_metrics


def at_step(step, act):
    """Do something once, before a step."""
    from eca_mmdet.training.loops import _ExactLoop

    do = _ExactLoop._step

    def _step(self, *args):
        if self._iter == step:
            act(self.runner)
        do(self, *args)

    _ExactLoop._step = _step


def fill_disk(step):
    """From a step on, no file can grow past 100 kB."""
    limit = (100_000, resource.RLIM_INFINITY)
    at_step(step, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, limit))


def remove(step, path):
    """Let a file vanish before a step."""
    at_step(step, lambda _: os.unlink(path))


def poison(step, name):
    """Make one weight NaN before a step, as a far too large update does."""

    def act(runner):
        weight = runner.model.get_parameter(name)
        weight.data.view(-1)[0] = float('nan')

    at_step(step, act)


def lose(*steps):
    """Make the loss of some steps NaN."""
    from eca_mmdet.training.finite import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        bad = self._runner.iter in steps
        update(self, loss * float('nan') if bad else loss, *args, **kwargs)

    GuardedOptimizer.update_params = update_params


def kill_worker(step):
    """Kill the data loader's worker (out of memory, say) while it reads an image."""
    from eca_mmdet.training import samples

    seed_sample = samples.seed_sample

    def seed(run, epoch, number):
        if number == step:
            _die()
        seed_sample(run, epoch, number)

    samples.seed_sample = seed


def interrupt_at_start():
    """Press ctrl-C when everything is built, before the first step."""
    from eca_mmdet.training.loops import _ExactLoop

    begin = _ExactLoop._begin

    def _begin(self, *args):
        begin(self, *args)
        os.killpg(os.getpgrp(), signal.SIGINT)

    _ExactLoop._begin = _begin
