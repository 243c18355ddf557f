"""Batch sampler that can start at any batch, to resume within an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler


class SampleIndex(int):
    """Index of an image, with its position in the order of training.

    Attributes:
        epoch: from 0.
        number: position within the epoch, counted over all processes.
    """

    epoch: int
    number: int

    def __new__(cls, index: int, epoch: int, number: int) -> SampleIndex:
        """Make an index with its position."""
        sample = super().__new__(cls, index)
        sample.epoch, sample.number = epoch, number
        return sample

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[int, int, int]]:
        return SampleIndex, (int(self), self.epoch, self.number)


class ReplayedBatchSampler(Sampler[list[SampleIndex]]):
    """Batches of another batch sampler, of ``SampleIndex``, from any batch on.

    Args:
        sampler: of indices; its order depends only on ``set_epoch`` and its seed.
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

    def __iter__(self) -> Iterator[list[SampleIndex]]:
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

    def _epoch_batches(self) -> Iterator[list[SampleIndex]]:
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(self._epoch)
        number = self._rank
        for batch in self._batches:
            samples = []
            for index in batch:
                samples.append(SampleIndex(index, self._epoch, number))
                number += self._processes
            yield samples

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self._batches)
