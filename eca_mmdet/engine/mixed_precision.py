"""Mixed precision: bfloat16 where the device computes in it, float16 elsewhere."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

logger = logging.getLogger(__name__)


def low_precision(device: str) -> torch.dtype:
    """Return bfloat16, or float16 for a type of device that only emulates it.

    GPUs before Ampere (V100, T4) are slow in bfloat16, or have no convolution for it.
    """
    cuda = device == 'cuda' and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if cuda or device == 'cpu' else torch.float16


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(AmpOptimWrapper):  # type: ignore[misc]
    """mmengine's ``AmpOptimWrapper`` in bfloat16 where possible, on CPUs as well.

    bfloat16 has the range of float32, and needs no loss scale.

    Args:
        dtype: 'bfloat16' or 'float16'. By default bfloat16 where the device computes in
            it, but float16 for the rest of a training that was in float16.
        loss_scale: of float16, as in mmengine.
        use_fsdp: as in mmengine.
        options: of ``OptimWrapper``.
    """

    def __init__(
        self,
        dtype: str | torch.dtype | None = None,
        loss_scale: Any = 'dynamic',
        use_fsdp: bool = False,
        **options: Any,
    ) -> None:
        name = str(dtype or low_precision(get_device())).removeprefix('torch.')
        if name not in ('bfloat16', 'float16'):
            raise ValueError(f"dtype must be 'bfloat16' or 'float16'; got {dtype!r}.")
        self._given = dtype is not None
        if name == 'float16':
            super().__init__(loss_scale, name, use_fsdp, **options)
        else:  # mmengine's refuses CPUs
            OptimWrapper.__init__(self, **options)
            self._scale_update_param = None
            self.loss_scaler = torch.amp.GradScaler(get_device(), enabled=False)
            self.cast_dtype = torch.bfloat16
        logger.info(f'mixed precision: {name}')

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of any wrapper; without a given type, go on in that of it."""
        scaler = state_dict.get('loss_scaler')
        if scaler is not None and not scaler:  # of a training in bfloat16
            del state_dict['loss_scaler']
        started_in_float16 = scaler and self.cast_dtype == torch.bfloat16
        if started_in_float16 and not self._given and get_device() == 'cuda':
            self.loss_scaler = torch.amp.GradScaler('cuda')
            self.cast_dtype = torch.float16
            logger.info('mixed precision: float16, as this training was started')
        super().load_state_dict(state_dict)
