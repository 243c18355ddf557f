"""Print the AP table after every evaluation, whichever command runs it."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from eca_mmdet.evaluation.tables import ap_table


@HOOKS.register_module()
class APTableHook(Hook):  # type: ignore[misc]
    """Log AP, AP50, AP75, APS, APM and APL as 0-100 in one table."""

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Print after a validation during training."""
        self._print(runner, metrics)

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Print after a test."""
        self._print(runner, metrics)

    def _print(self, runner: Any, metrics: dict[str, float] | None) -> None:
        table = ap_table(metrics or {})
        if table:
            runner.logger.info(f'COCO AP, 0-100:\n{table}')
