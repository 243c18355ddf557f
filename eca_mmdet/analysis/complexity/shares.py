"""Which part of a detector a growing total belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from eca_mmdet.analysis.complexity.parts import run_parts
from eca_mmdet.catalog.mechanisms import ADDING_LAYERS
from eca_mmdet.models.attention import ChannelGate, Gate

Meter = Callable[[], int]
"""Returns a total that grows while a model runs."""


def is_attention(layer: nn.Module) -> bool:
    """Tell whether the layer is attention, whose cost is also counted by itself."""
    return isinstance(layer, Gate) or type(layer).__name__ in ADDING_LAYERS


def part_of(name: str) -> str:
    """Return the part that a parameter or layer of a detector belongs to."""
    words = name.split('.')
    if words[0] == 'backbone':
        return words[1] if words[1].startswith('layer') else 'stem'
    if words[0] == 'roi_head':
        return '.'.join(words[:2])
    return words[0]


class Shares:
    """Runs a detector and shares out what a meter counts.

    A lean backbone runs layers by themselves while someone listens to them. Where it is
    to run as it does, nothing of its stem is listened to (that is the backbone's rest),
    and of its gates the factors alone.

    Args:
        model: with a backbone.
        meter: read before and after each part.
        lean: do not disturb the backbone.

    Attributes:
        by_part: amounts by :func:`part_of`.
        gates: amount of the attention layers, which the parts have as well.
    """

    def __init__(self, model: Any, meter: Meter, lean: bool = False) -> None:
        self.by_part: dict[str, int] = {}
        self.gates = 0
        self._model, self._meter, self._lean = model, meter, lean
        self._before: dict[nn.Module, int] = {}
        self._names = {
            stage: name
            for name, stage in model.backbone.named_children()
            if part_of(f'backbone.{name}') != 'stem'
        }

    def run(self, **run: Any) -> None:
        """Run the parts; arguments of ``parts.run_parts``."""
        gates: list[Any] = [m for m in self._model.modules() if is_attention(m)]
        lean_gates: list[Any] = [
            m for m in gates if self._lean and isinstance(m, ChannelGate)
        ]
        others = [m for m in gates if m not in lean_gates]
        hooks = []
        for module in (*self._names, *others):
            hooks.append(module.register_forward_pre_hook(self._enter))
            hooks.append(module.register_forward_hook(self._leave))
        for gate in lean_gates:
            gate.factors = self._measured(gate.factors)
        try:
            run_parts(self._model, wrap=self._part, **run)
        finally:
            for hook in hooks:
                hook.remove()
            for gate in lean_gates:
                del gate.factors

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._before[module] = self._meter()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        amount = self._meter() - self._before.pop(module)
        if is_attention(module):
            self.gates += amount
        else:
            self._add(part_of(f'backbone.{self._names[module]}'), amount)

    def _measured(
        self, factors: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        def run_factors(pooled: Tensor) -> Tensor:
            start = self._meter()
            result = factors(pooled)
            self.gates += self._meter() - start
            return result

        return run_factors

    def _part(self, name: str, run_part: Callable[[], Any]) -> Any:
        start, known = self._meter(), sum(self.by_part.values())
        output = run_part()
        # What the backbone does outside of its layers is its stem's.
        rest = self._meter() - start - (sum(self.by_part.values()) - known)
        self._add(part_of(f'{name}.') if name == 'backbone' else name, rest)
        return output

    def _add(self, name: str, amount: int) -> None:
        self.by_part[name] = self.by_part.get(name, 0) + amount
