"""Stop training, or skip the batch, at a loss that is NaN or infinite."""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, is_distributed
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from eca_mmdet import compat
from eca_mmdet.engine.data_loading import seed_step
from eca_mmdet.engine.distributed import unwrapped
from eca_mmdet.engine.failures import is_out_of_gpu_memory
from eca_mmdet.utils.errors import RunError


class _NotFinite(Exception):  # noqa: N818 - never leaves this module
    """Inside ``update_params``: leave this step without an update."""


class GuardedOptimizer:
    """A Runner's optimizer wrapper that skips updates from losses that are not finite.

    The host learns whether the loss is finite, and the values to be logged, in one
    transfer, for which the device does not wait: the backward pass is queued before it
    is known, and the update after. Two cases have to know it before: accumulation,
    where a backward pass would spoil the gradients of earlier batches, and several
    processes. What is computed from NaN may not reach every parameter (no proposals, no
    loss of the box head), and DDP would wait for their gradients forever.

    It also makes all processes of a job stop at the same step, when one is interrupted.
    ``nan_limit`` and ``interrupts`` are the runner's.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._skipped = 0
        self._own = True  # this process has the loss that is not finite
        self._kept = functools.cache(torch.empty_like)  # a buffer for each statistic
        self._logged: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner.optim_wrapper, name)

    def train_step(self, batch: Any) -> dict[str, Any] | None:
        """Run one step of the model; return its log variables, None if left out.

        They are on the CPU, except those of a model with a ``train_step`` of its own.
        """
        runner = self._runner
        if not isinstance(runner.optim_wrapper, OptimWrapper):  # several optimizers
            step = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            return dict(step)
        counted = compat.steps_counted(runner.optim_wrapper)
        statistics = (
            _norm_statistics(runner.model) if runner.nan_limit is not None else []
        )
        kept = list(map(self._kept, statistics))
        _copy_all(kept, statistics)
        try:
            return self._train(batch)
        except _NotFinite:
            pass
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            # Some heads stumble over NaN before there is a loss.
            # After these, a GPU cannot repeat the forward pass.
            gpu = is_out_of_gpu_memory(error) or 'CUDA error' in str(error)
            if gpu or is_distributed() or not self._locate(batch)[0]:
                raise
        message = self._describe(batch)
        self._skipped += 1
        if runner.nan_limit is None or self._skipped > runner.nan_limit:
            raise RunError(f'{message} {self._advice()}', code='not-finite')
        _copy_all(statistics, kept)
        if compat.updates_each_step(runner.optim_wrapper):
            runner.optim_wrapper.zero_grad()
        compat.set_steps_counted(runner.optim_wrapper, counted)
        runner.logger.warning(
            f'{message} The batch is left out ({self._skipped} of at most '
            f'{runner.nan_limit}).'
        )
        return None

    def _train(self, batch: Any) -> dict[str, Any]:
        """Run mmengine's ``train_step``, with the values to be logged at hand."""
        model = self._runner.model
        if not compat.has_plain_train_step(model):
            return dict(model.train_step(batch, optim_wrapper=self))
        module = unwrapped(model)
        with self.optim_context(model):
            losses = compat.forward_losses(model, module.data_preprocessor(batch, True))
        loss, logged = module.parse_losses(losses)
        self._logged = dict(logged)
        self.update_params(loss)
        return self._logged

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Apply a loss, if it is finite in every process."""
        wrapper, interrupts = self._runner.optim_wrapper, self._runner.interrupts
        bad = ~torch.isfinite(loss.detach()).all()
        asked = loss.new_full((), interrupts.requested, dtype=torch.long)
        logged = {
            name: value.detach()
            for name, value in self._logged.items()
            if isinstance(value, Tensor)
            and (value.shape, value.device) == (bad.shape, bad.device)
        }
        numbers = torch.stack([bad, asked, bad, *logged.values()]).double()
        if is_distributed():
            torch.distributed.all_reduce(numbers[:2], torch.distributed.ReduceOp.MAX)
        host = numbers.to('cpu', non_blocking=True)  # pinned by PyTorch
        copied: Any = torch.cuda.Event() if loss.is_cuda else None  # type: ignore[no-untyped-call]
        if copied:
            copied.record()
        plain = compat.updates_each_step(wrapper) and not (args or kwargs)
        at_once = plain and not is_distributed()
        if at_once:
            wrapper.backward(wrapper.scale_loss(loss))
        while copied and not copied.query():  # in Python, where ctrl-C is heard
            time.sleep(1e-4)
        any_bad, interrupts.agreed, own = map(int, host[:3].tolist())
        if any_bad:
            self._own = bool(own)
            raise _NotFinite
        if at_once:
            wrapper.step()
            wrapper.zero_grad()
        else:
            wrapper.update_params(loss, *args, **kwargs)
        self._logged |= dict(zip(logged, host[3:].unbind(), strict=True))

    def _locate(self, batch: Any) -> tuple[str, list[str]]:
        """Repeat the forward pass with the same random numbers, and watch it.

        Watched layers run by themselves: where all of them are finite, blocks are
        watched, whose layers are computed together as in training.
        """
        runner = self._runner
        rank = get_rank()
        for blocks in (False, True):
            seed_step(runner.seed, rank, runner.iter)
            context = runner.optim_wrapper.optim_context(runner.model)
            model = unwrapped(runner.model)
            # Layers and losses do not talk to other processes, which may not answer.
            alone = compat.replaced(torch.distributed, is_initialized=lambda: False)
            with context, alone, compat.not_compiled(model):
                found = first_not_finite(model, batch, blocks)
            if found[0]:
                break
        return found

    def _describe(self, batch: Any) -> str:
        layer, parts = self._locate(batch)
        message = ''
        if self._own:
            process = f' in process {get_rank()}' if is_distributed() else ''
            losses = f' ({", ".join(parts)})' if parts else ''
            message = (
                f'the loss of step {self._runner.iter + 1} is not finite{process}'
                f'{losses}, on {images_of(batch)}. First output that is not: '
                f'{layer or "none, only the loss itself"}.'
            )
        # Only the first process prints.
        printed: str = next(filter(None, all_gather_object(message)))
        return printed

    def _advice(self) -> str:
        lr = self._runner.optim_wrapper.get_lr().get('lr', [float('nan')])[0]
        skips = self._runner.nan_limit is not None
        times = f' after {self._skipped - 1} were left out' if skips else ''
        return (
            f'Nothing was learned from this batch, and training has stopped{times}. '
            f'What usually helps: a smaller learning rate (now {lr:g}; it has to fit '
            'the images a step), a longer warm-up, gradient clipping (--cfg-options '
            'optim_wrapper.clip_grad.max_norm=35), a look at these images '
            '(eca-mmdet data check).'
        )


def images_of(batch: Any) -> str:
    """Name the images of a batch by id and file."""
    try:
        samples = batch['data_samples']
        named = [
            f'{sample.metainfo.get("img_id")} '
            f'({str(sample.metainfo.get("img_path", "")).rpartition("/")[2]})'
            for sample in samples
        ]
    except (KeyError, TypeError, AttributeError):
        return 'a batch that does not say what is in it'
    return f'images {", ".join(named)}' if len(named) > 1 else f'image {named[0]}'


def first_not_finite(
    model: Any, batch: Any, blocks: bool = False
) -> tuple[str, list[str]]:
    """Return the first layer of a training step whose output is not finite, or ''.

    Described with its weights and input. Second, the losses that are not finite.
    ``blocks`` leaves out layers, and gates of one layer.
    """
    names = {
        module: name
        for name, module in model.named_modules()
        if not blocks or any(list(child.children()) for child in module.children())
    }
    culprits: list[str] = []
    lost: list[str] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if not culprits and not _is_finite(output):
            culprits.append(_suspect(names[module], module, inputs))

    handles = [module.register_forward_hook(look) for module in names if names[module]]
    try:
        with torch.no_grad(), contextlib.suppress(Exception):
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
            lost = [name for name, value in losses.items() if not _is_finite(value)]
    finally:
        for handle in handles:
            handle.remove()
    return (culprits[0] if culprits else ''), lost


def _suspect(name: str, module: nn.Module, inputs: Any) -> str:
    lost = [key for key, p in module.named_parameters() if not _is_finite(p)]
    if lost:
        return f'{name} (its {lost[0]} is not finite: an earlier update was too large)'
    if not _is_finite(inputs):
        return f'{name} (its input is not finite)'
    return f'{name} (its input and weights are finite)'


def _is_finite(value: Any) -> bool:
    """Return whether every number in nested containers of tensors is finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return True


def _norm_statistics(model: nn.Module) -> list[Tensor]:
    """Return the statistics that a forward pass in training changes."""
    norms = compat.norm_base()
    return [
        buffer
        for module in model.modules()
        if isinstance(module, norms) and module.training
        for buffer in module.buffers(recurse=False)
    ]


def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors in one operation for each dtype."""
    for dtype in {tensor.dtype for tensor in targets}:
        pairs = [
            pair
            for pair in zip(targets, sources, strict=True)
            if pair[0].dtype == dtype
        ]
        compat.copy_tensors(*map(list, zip(*pairs, strict=True)))


def require_finite(checkpoint: dict[str, Any]) -> None:
    """Check that the weights to be saved are finite."""
    lost = [k for k, t in checkpoint['state_dict'].items() if not _is_finite(t)]
    if lost:
        raise RunError(
            f'{len(lost)} tensors of the model are not finite, the first {lost[0]}: '
            'the updates were too large. They were not saved. What usually helps: a '
            'smaller learning rate, a longer warm-up, gradient clipping (--cfg-options '
            'optim_wrapper.clip_grad.max_norm=35).',
            code='not-finite',
        )
