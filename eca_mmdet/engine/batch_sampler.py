"""Which images make which batch, so that a resumed run goes on within an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler


class Draw(int):
    """The index of an image, and the draw in which it came up.

    Attributes:
        epoch: from 0.
        number: of the draw within the epoch, counted over all processes.
    """

    epoch: int
    number: int

    def __new__(cls, index: int, epoch: int, number: int) -> Draw:
        """Make an index that remembers."""
        draw = super().__new__(cls, index)
        draw.epoch, draw.number = epoch, number
        return draw

    def __reduce__(self) -> tuple[type[Draw], tuple[int, int, int]]:
        return Draw, (int(self), self.epoch, self.number)


class ReplayedBatchSampler(Sampler[list[Draw]]):
    """Batches of another batch sampler, from any batch on, each index a ``Draw``.

    Args:
        sampler: of indices; its order may depend on ``set_epoch`` and its seed alone.
        batch_size: images a batch.
        inner: config of a batch sampler; None takes consecutive indices.
        drop_last: leave out a last batch that is not full, if ``inner`` is None.
        endless: begin the next epoch by itself, for training by iterations.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        inner: dict[str, Any] | None = None,
        drop_last: bool = False,
        endless: bool = False,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self._batches: Any = (
            BatchSampler(sampler, batch_size, drop_last)
            if inner is None
            else DATA_SAMPLERS.build(
                inner, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        )
        self._endless = endless
        self._rank, self._processes = get_dist_info()
        self.start_at(0, 0)

    def start_at(self, epoch: int, batches: int) -> None:
        """Let the next iteration begin in ``epoch``, after ``batches`` of it.

        If it is endless, ``batches`` may be more than an epoch has.
        """
        self._epoch, self._skip = epoch, batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches of one epoch, or of all that follow.

        The position moves on when the epoch has been read to its end; looking at an
        iterator without taking a batch changes nothing.
        """
        while True:
            count = 0
            for count, batch in enumerate(self._epoch_batches(), 1):
                if count > self._skip:
                    yield batch
            self._epoch += 1
            self._skip = max(0, self._skip - count)
            if not (self._endless and count):
                return

    def _epoch_batches(self) -> Iterator[list[Draw]]:
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(self._epoch)
        number = self._rank
        for batch in self._batches:
            draws = []
            for index in batch:
                draws.append(Draw(index, self._epoch, number))
                number += self._processes
            yield draws

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self._batches)
