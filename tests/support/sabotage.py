"""What happens to a training at a chosen moment: called in its process beforehand."""

import os
import resource
import signal
from pathlib import Path


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step):
    """Kill in the middle of a step: its loss is there, the update is not."""
    from eca_mmdet.engine.nan_guard import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        if self._runner.iter == step:
            _die()
        update(self, loss, *args, **kwargs)

    GuardedOptimizer.update_params = update_params


def kill_in_checkpoint(step, share):
    """Kill when a part of a checkpoint's bytes has been written."""
    from eca_mmdet.engine import checkpointing as checkpoints

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
    from eca_mmdet.engine import checkpointing as checkpoints

    put = checkpoints.WholeFiles.put

    def dying(self, obj, filepath):
        put(self, obj, filepath)
        if str(filepath).endswith(f'_{step}.pth'):
            _die()

    checkpoints.WholeFiles.put = dying


def kill_in_validation(at):
    """Kill in the ``at``-th validation, its images predicted, its metrics not."""
    from eca_mmdet.evaluation.metric import CocoTableMetric

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
    from eca_mmdet.engine.nan_guard import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        if self._runner.iter == step:
            os.killpg(os.getpgrp(), number)
        update(self, loss, *args, **kwargs)

    GuardedOptimizer.update_params = update_params


def interrupt_in_validation(number=signal.SIGINT):
    """Press ctrl-C when the images of the first validation have been predicted."""
    from eca_mmdet.evaluation.metric import CocoTableMetric

    compute = CocoTableMetric.compute_metrics

    def compute_metrics(self, results):
        os.killpg(os.getpgrp(), number)
        return compute(self, results)  # if the signal has to wait

    CocoTableMetric.compute_metrics = compute_metrics


def at_step(step, act):
    """Do something once, before a step."""
    from eca_mmdet.engine.loops import ExactLoop

    do = ExactLoop._step

    def _step(self, *args):
        if self._iter == step:
            act(self.runner)
        do(self, *args)

    ExactLoop._step = _step


def fill_disk(step):
    """From a step on, no file can grow past 2 kB, the log neither."""
    limit = (2_000, resource.RLIM_INFINITY)
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
    from eca_mmdet.engine.nan_guard import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        bad = self._runner.iter in steps
        update(self, loss * float('nan') if bad else loss, *args, **kwargs)

    GuardedOptimizer.update_params = update_params


def kill_worker(step):
    """Kill the data loader's worker (out of memory, say) while it reads an image."""
    from eca_mmdet.engine import data_loading as samples

    seed_sample = samples.seed_sample

    def seed(run, epoch, number):
        if number == step:
            _die()
        seed_sample(run, epoch, number)

    samples.seed_sample = seed


def interrupt_at_start():
    """Press ctrl-C when everything is built, before the first step."""
    from eca_mmdet.engine.loops import ExactLoop

    begin = ExactLoop._begin

    def _begin(self, *args):
        begin(self, *args)
        os.killpg(os.getpgrp(), signal.SIGINT)

    ExactLoop._begin = _begin


def interrupt_twice_at_step(step):
    """Press ctrl-C before an update and after it, within one step."""
    from eca_mmdet.engine.nan_guard import GuardedOptimizer

    update = GuardedOptimizer.update_params

    def update_params(self, loss, *args, **kwargs):
        if self._runner.iter == step:
            os.killpg(os.getpgrp(), signal.SIGINT)
        update(self, loss, *args, **kwargs)
        if self._runner.iter == step:
            os.killpg(os.getpgrp(), signal.SIGINT)

    GuardedOptimizer.update_params = update_params


def interrupt_and_terminate(step):
    """Press ctrl-C in a step, and send SIGTERM while its checkpoint is written."""
    from eca_mmdet.engine.runner import ResumableRunner

    interrupt_at_step(step)
    save = ResumableRunner.save_interrupted

    def save_interrupted(self):
        os.killpg(os.getpgrp(), signal.SIGTERM)
        return save(self)

    ResumableRunner.save_interrupted = save_interrupted


def interrupt_while_resuming():
    """Press ctrl-C when the optimizer takes its state from a checkpoint."""
    from mmengine.optim import OptimWrapper

    def load_state_dict(self, state):
        os.killpg(os.getpgrp(), signal.SIGINT)

    OptimWrapper.load_state_dict = load_state_dict
