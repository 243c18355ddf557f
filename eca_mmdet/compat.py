"""Private names of mmengine, mmdet and torch that this package relies on.

Every access is a function here, and ``tests/test_compat.py`` checks each of them
against the installed libraries: after an upgrade, that test fails first and names the
function. Nothing of this package is imported, so that every layer can use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Replace attributes of a module or another object inside of a block."""
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# --- mmengine -------------------------------------------------------------------------


@contextlib.contextmanager
def skipping_metafiles() -> Iterator[None]:
    """Let configs inherit ``mmdet::...`` without parsing a hundred metafiles.

    mmengine looks for each name there, before it looks among the files.
    """
    from mmengine.config import config

    find = config._get_external_cfg_path

    def find_listed(package: str, name: str) -> Any:
        if (Path(package) / '.mim' / 'configs' / name).is_file():
            raise ValueError(f'{name} need not be looked up')
        return find(package, name)

    with replaced(config, _get_external_cfg_path=find_listed):
        yield


def external_config(name: str) -> Path:
    """Return the file of ``PACKAGE::NAME``; what mmengine raises if there is none."""
    from mmengine.config import Config

    with skipping_metafiles():
        return Path(Config._get_cfg_path(name, '')[0])


@contextlib.contextmanager
def formatting_once() -> Iterator[None]:
    """Let the copies of a config that a run logs and stores be formatted once."""
    from mmengine.config import config
    from yapf.yapflib import yapf_api

    # mmengine 0.10 imports the function, onedl-mmengine the module.
    users = [user for user in (yapf_api, config) if hasattr(user, 'FormatCode')]
    format_code = yapf_api.FormatCode
    known: dict[str, Any] = {}

    def format_new(text: str, **style: Any) -> Any:
        key = f'{style}{text}'
        if key not in known:
            known[key] = format_code(text, **style)
        return known[key]

    with contextlib.ExitStack() as stack:
        for user in users:
            stack.enter_context(replaced(user, FormatCode=format_new))
        yield


def train_loop(runner: Any) -> Any:
    """Return the training loop: an object, its config if not yet built, or None."""
    return runner._train_loop


def built_loops(runner: Any) -> list[Any]:
    """Return the loops for training, validation and testing that are built."""
    names = ('_train_loop', '_val_loop', '_test_loop')
    loops = [getattr(runner, name, None) for name in names]
    return [loop for loop in loops if hasattr(loop, 'dataloader')]


def load_path(runner: Any) -> Any:
    """Return the checkpoint that the runner loads, or None."""
    return runner._load_from


def set_load_path(runner: Any, path: str) -> None:
    """Set the checkpoint that the runner loads."""
    runner._load_from = path


def is_resuming(runner: Any) -> bool:
    """Tell whether the runner restores the state of its training, not only weights."""
    return bool(runner._resume)


def remove_hooks(runner: Any, kind: type) -> None:
    """Remove the registered hooks of a class."""
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, kind)]


def differs_by_rank(runner: Any) -> bool:
    """Tell whether each process of the job has its own seed."""
    return bool(runner._randomness_cfg.get('diff_rank_seed', False))


SCHEDULER_RATES = ('base_values', '_last_value')
"""Entries of a scheduler's state that hold learning rates."""


def steps_counted(optim_wrapper: Any) -> int:
    """Return the steps that an optimizer wrapper has counted, for accumulation."""
    return int(getattr(optim_wrapper, '_inner_count', 0))


def set_steps_counted(optim_wrapper: Any, count: int) -> None:
    """Set that count; wrappers of several optimizers have none."""
    if hasattr(optim_wrapper, '_inner_count'):
        optim_wrapper._inner_count = count


def is_accumulating(optim_wrapper: Any) -> bool:
    """Tell whether there are accumulated gradients that were not yet applied."""
    counts = getattr(optim_wrapper, '_accumulative_counts', 1)
    counted = steps_counted(optim_wrapper)
    last = counted == getattr(optim_wrapper, '_max_counts', -1)
    return bool(counted % counts and not last)


def updates_each_step(optim_wrapper: Any) -> bool:
    """Tell whether a wrapper updates as mmengine's does, without accumulation."""
    from mmengine.optim import OptimWrapper

    own = type(optim_wrapper).update_params is not OptimWrapper.update_params
    return not own and getattr(optim_wrapper, '_accumulative_counts', 1) == 1


def has_plain_train_step(model: Any) -> bool:
    """Tell whether a model, DDP's wrapper included, trains as mmengine's do."""
    from mmengine.model import BaseModel, MMDistributedDataParallel

    kinds = (BaseModel, MMDistributedDataParallel)
    plain = getattr(type(model), 'train_step', None) in [k.train_step for k in kinds]
    watched = getattr(model, 'detect_anomalous_params', False)
    return plain and not (watched or 'train_step' in vars(model))


def forward_losses(model: Any, data: Any) -> Any:
    """Run the forward pass of a training step on preprocessed data."""
    return model._run_forward(data, mode='loss')


def is_inside_init_weights(module: Any) -> bool:
    """Tell whether ``BaseModule.init_weights`` of a parent is running."""
    return hasattr(module, '_params_init_info')


def mark_initialized(module: Any) -> None:
    """Make mmengine skip ``init_weights`` of a module."""
    module.is_init = True


# --- mmdet ----------------------------------------------------------------------------


def box_forward(roi_head: Any, maps: Any, regions: Any) -> Any:
    """Run the box head on regions; return mmdet's dict of its outputs."""
    return roi_head._bbox_forward(maps, regions)


# --- torch ----------------------------------------------------------------------------


def copy_tensors(targets: list[Any], sources: list[Any]) -> None:
    """Copy tensors of one dtype to others in one operation."""
    import torch

    torch._foreach_copy_(targets, sources)


def version_of(tensor: Any) -> int:
    """Return how often a tensor's storage was written in place, by any view of it."""
    return int(tensor._version)


def no_dispatch_modes() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which no dispatch mode sees operators, and none are fake."""
    from torch.utils import _python_dispatch

    return _python_dispatch._disable_current_modes()


def norm_base() -> Any:
    """Return the base class of batch and instance norms."""
    from torch.nn.modules.batchnorm import _NormBase

    return _NormBase


def batch_norm_base() -> Any:
    """Return the base class of batch norms."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return _BatchNorm


def compile_any_size(module: Any) -> None:
    """Put a module through torch.compile in place, for inputs of any size.

    Graphs that another process left in AOTAutograd's cache are not used: torch 2.14
    takes the strides of that process's first input for those of every input.
    """
    from torch._functorch import config

    config.enable_autograd_cache = False
    module.compile(dynamic=True)


@contextlib.contextmanager
def not_compiled(model: Any) -> Iterator[None]:
    """Run what ``Module.compile`` compiled as it is, with the hooks of its layers."""
    calls = {part: part._compiled_call_impl for part in model.modules()}
    try:
        for part in calls:
            part._compiled_call_impl = None
        yield
    finally:
        for part, call in calls.items():
            part._compiled_call_impl = call


def conv_forward(kind: Any) -> Callable[..., Any]:
    """Return the method of a convolution class that ``forward`` calls."""
    return kind._conv_forward  # type: ignore[no-any-return]


def has_own_conv_forward(layer: Any) -> bool:
    """Tell whether that method was replaced on one object."""
    return '_conv_forward' in layer.__dict__


def module_hooks(layer: Any) -> tuple[dict[int, Any], ...]:
    """Return the hooks of a module around its forward and backward, by kind."""
    return (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )


def global_module_hooks() -> tuple[dict[int, Any], ...]:
    """Return the hooks on all modules, by kind; the dicts stay the same objects."""
    from torch.nn.modules import module

    return (
        module._global_forward_hooks,
        module._global_forward_pre_hooks,
        module._global_backward_hooks,
        module._global_backward_pre_hooks,
    )


def state_metadata(state: Any) -> Any:
    """Return the versions of the modules that wrote a state dict, or None."""
    return getattr(state, '_metadata', None)


def set_state_metadata(state: Any, metadata: Any) -> None:
    """Attach them; layers read there how old the names of their tensors are."""
    state._metadata = metadata


def functorch_transforms_active() -> bool:
    """Tell whether a transform of ``torch.func`` is running."""
    import torch

    return torch._C._are_functorch_transforms_active()


def fx_tracing() -> Callable[[], bool]:
    """Return the function that tells whether ``torch.fx`` is tracing symbolically."""
    from torch.fx import _symbolic_trace

    # The second name warns where the first exists.
    newer = getattr(_symbolic_trace, 'is_fx_symbolic_tracing', None)
    return newer or _symbolic_trace.is_fx_tracing


@contextlib.contextmanager
def silent_onnx_log() -> Iterator[None]:
    """Keep torch 2.14 from printing graphs: its switch takes a function for a flag."""
    import torch

    there = hasattr(torch._C, '_jit_onnx_log')
    silent = {'_jit_onnx_log': lambda *_: None} if there else {}
    with replaced(torch._C, **silent):
        yield


def end_workers(loop: Any) -> None:
    """End the processes of a loop's data loader; its next iteration starts new ones."""
    for holder in (loop.dataloader, getattr(loop, 'dataloader_iterator', None)):
        iterator: Any = getattr(holder, '_iterator', None)
        if hasattr(iterator, '_shutdown_workers'):
            iterator._shutdown_workers()
    if hasattr(loop.dataloader, '_iterator'):  # the next loop would wait for them
        loop.dataloader._iterator = None
