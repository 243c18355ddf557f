"""Inference at speed: fused norms, channels-last, and half the bits in the maps."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from eca_mmdet import compat
from eca_mmdet.engine.mixed_precision import low_precision
from eca_mmdet.utils.errors import UserError

PROBE = 512
"""Side of the image that fusion is checked with, in pixels."""

TOLERANCE = 1e-3
"""Largest difference that fusion may make, relative to a channel's largest feature."""

COMPILED_TOLERANCE = 5e-2
"""Largest difference that compilation may make, relative to a level's largest feature.

That of bfloat16, in which compiled kernels round at other places.
"""


def make_fast(detector: nn.Module, compiled: bool = False) -> Any:
    """Return a fast copy of a trained mmdet detector, for inference only.

    Batch norms of backbone and neck are fused into their convolutions, the detector's
    weights take the channels-last format, and backbone and neck run under autocast: to
    bfloat16, or to float16 on a GPU that does not compute in it. Heads, RoI operators
    and NMS get float32 features, as ever. The copy is in evaluation mode; its
    ``extracted`` counts the batches through ``extract_feat``.

    ``compiled`` also runs the backbone through ``torch.compile``, which takes minutes
    for the first image, and on a CPU needs a C++ compiler. The features of that image
    are held against those of the layers themselves.
    """
    if not hasattr(detector, 'backbone') or not hasattr(detector, 'extract_feat'):
        raise UserError(
            'fast inference needs a detector with a backbone and extract_feat; got '
            f'{type(detector).__name__}.',
            code='unsupported-model',
        )
    fast: Any = copy.deepcopy(detector)
    fast.eval()
    _fuse(fast)
    fast.to(memory_format=torch.channels_last)
    fast.extracted = 0
    fast.precision = low_precision(next(fast.parameters()).device.type)
    fast.to_compare = False
    fast.extract_feat = types.MethodType(_extract_feat, fast)
    if fast.precision == torch.float16:
        with torch.no_grad():
            levels = fast.extract_feat(_probe(fast))
        if not all(level.isfinite().all() for level in levels):
            raise _refused(
                f'the features of {type(fast.backbone).__name__} exceed the range of '
                'float16, and this GPU does not compute in bfloat16'
            )
        fast.extracted = 0
    if compiled:
        compat.compile_any_size(fast.backbone)
        fast.to_compare = True
    return fast


def _refused(reason: str, option: str = '--fast') -> UserError:
    return UserError(f'{reason}. Test it without {option}.', code='unsupported-model')


def _extract_feat(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
    self.extracted += 1
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast(inputs.device.type, dtype=self.precision):
        features = type(self).extract_feat(self, inputs, *args, **kwargs)
        if self.to_compare:
            with compat.not_compiled(self):
                expected = type(self).extract_feat(self, inputs, *args, **kwargs)
            for new, old in zip(features, expected, strict=True):
                change = (new.float() - old.float()).abs().max()
                if not change <= COMPILED_TOLERANCE * old.float().abs().max():
                    name = type(self.backbone).__name__
                    reason = f'torch.compile changes the features of {name}'
                    raise _refused(reason, '--compile')
            self.to_compare = False
    if isinstance(features, Tensor):
        return features.float()
    return tuple(level.float() for level in features)


def _probe(model: Any) -> Tensor:
    """Return an image of noise, on the model's device in its type."""
    generator = torch.Generator().manual_seed(0)
    # Large enough for what an attention layer looks at on the smallest map.
    image = torch.randn(1, 3, PROBE, PROBE, generator=generator)
    return image.to(next(model.parameters()))


def _fuse(model: Any) -> None:
    """Fuse norms in backbone and neck; check that the features stay the same."""
    from mmcv.cnn import fuse_conv_bn

    image = _probe(model)
    # TF32 would round the scaled weights differently: its error is above TOLERANCE.
    with torch.no_grad(), _without_tf32():
        before = model.extract_feat(image)
        try:
            for name, part in model.named_children():
                if name in ('backbone', 'neck'):
                    setattr(model, name, fuse_conv_bn(part))
        except (TypeError, AttributeError) as error:
            raise _refused(
                f'the norms of {type(model).__name__} cannot be fused ({error}): they '
                'need weights and running statistics'
            ) from error
        after = model.extract_feat(image)
    for old, new in zip(before, after, strict=True):
        change = (old - new).abs().amax((0, 2, 3))
        allowed = TOLERANCE * old.abs().amax((0, 2, 3)) + 1e-6 * old.abs().max()
        if not (change <= allowed).all():  # also where a feature is not a number
            raise _refused(
                f'fusing the norms of {type(model.backbone).__name__} changes its '
                'features: its layers do not run in the order they are defined in, or '
                'its norms do more than normalise (some of timm hold the activation)'
            )


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products of float32 in float32 on a GPU."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


class FastTestHook(Hook):  # type: ignore[misc]
    """Test a fast copy of the model, made once its weights are all in place.

    Register it with the lowest priority: hooks that swap weights in, such as mmengine's
    ``EMAHook``, act on the model itself, before the copy and after the test.
    """

    def __init__(self, compiled: bool = False) -> None:
        self._compiled = compiled

    def before_test_epoch(self, runner: Any) -> None:
        """Put the copy in the model's place; ``metrics.json`` will say so."""
        self._model = runner.model
        wrapped = is_model_wrapper(runner.model)
        model = runner.model.module if wrapped else runner.model
        runner.model = self._fast = make_fast(model, self._compiled)
        runner.cfg.fast = True
        runner.cfg.fast_dtype = str(self._fast.precision).removeprefix('torch.')

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Put the model back; raise UserError if the test did not use the copy."""
        runner.model = self._model
        if not self._fast.extracted and len(runner.test_dataloader):
            raise _refused(
                f'{type(self._fast).__name__} tests without its extract_feat, which '
                '--fast speeds up: these numbers are those of float32'
            )
