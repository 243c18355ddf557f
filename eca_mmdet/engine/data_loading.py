"""Batches and random numbers of any point of an epoch, and broken images by name.

mmengine seeds the weights and the order of the images, and writes the seed into the log
and each checkpoint, also one it drew itself. All other random numbers are a function of
that seed and of the position in training, not of what was drawn before: a resumed run
draws what the uninterrupted one would have, with any number of data loader workers, and
no generator's state has to be saved.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import multiprocessing.sharedctypes
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler, get_worker_info

from eca_mmdet.datasets.images import read_size
from eca_mmdet.utils.errors import RunError
from eca_mmdet.utils.text import printable

_MIXING = ('MultiImageMixDataset', 'mmdet.MultiImageMixDataset')


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed every generator of this process (``rank``), for one training step."""
    _seed(torch.manual_seed, seed, 1, rank, step)  # of all devices


def seed_sample(seed: int, epoch: int, number: int) -> None:
    """Seed the generators that a data pipeline uses, for one image.

    ``number`` counts the draws of an epoch over all processes.
    """
    on_cpu = torch.default_generator.manual_seed  # where pipelines run
    _seed(on_cpu, seed, 2, epoch, number)


def _seed(torch_seed: Callable[[int], Any], *place: int) -> None:
    """Seed Python, NumPy and PyTorch; neighbouring places give unlike numbers."""
    # SeedSequence takes no negative numbers, and mmengine's seed may be any int.
    sequence = np.random.SeedSequence([value % 2**64 for value in place])
    words = sequence.generate_state(4)
    high, low, *others = map(int, words)
    torch_seed(high << 32 | low)
    random.seed(others[0] << 32 | others[1])
    np.random.seed(words)


class SampleIndex(int):
    """Index of an image, with its epoch (from 0) and its number in it over ranks."""

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

    The order of ``sampler`` may depend only on ``set_epoch`` and its seed. ``inner`` is
    the config of a batch sampler; None takes consecutive indices. An endless sampler
    begins the next epoch by itself, for training by iterations.
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
        numbers = itertools.count(self._rank, self._processes)
        for batch in self._batches:
            yield [SampleIndex(index, self._epoch, next(numbers)) for index in batch]

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self._batches)


class BadImageError(RunError):
    """An image that cannot be read. The message names it."""

    code = 'broken-image'


class FaultTolerantDataset(Dataset[Any]):
    """Wrapper of a dataset that seeds each image and names broken ones.

    Attributes are read from and set on the wrapped dataset. mmdet itself ends with a
    stack trace from a worker, or silently.

    Args:
        dataset: config of any mmdet dataset.
        seed: of the run; None seeds nothing.
        workers: processes that load; 0 for this one.
        tolerated: images that may be broken; each is replaced by the next one.
        bad_images: file that lists them, shared by all processes.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int | None = None,
        workers: int = 0,
        tolerated: int = 0,
        bad_images: str = '',
    ) -> None:
        mixes = isinstance(dataset, dict) and dataset.get('type') in _MIXING
        if mixes and isinstance(dataset['dataset'], dict):
            # Images that are mixed into another are read by the dataset inside.
            inner = dict(dataset=dataset['dataset'], workers=workers)
            inner |= dict(tolerated=tolerated, bad_images=bad_images)
            dataset = {**dataset, 'dataset': dict(type=FaultTolerantDataset, **inner)}
        self._seed = seed
        self._tolerated = tolerated
        self._list = bad_images
        # What each worker is at, readable when it is dead.
        self._loading: Any = multiprocessing.sharedctypes.RawArray(
            'q', [-1] * max(1, workers)
        )
        self.dataset = DATASETS.build(dataset)  # last: from now on, attributes are its

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or 'dataset' not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__['dataset'], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or 'dataset' not in self.__dict__:
            super().__setattr__(name, value)
        else:  # mmdet's hooks exchange the pipeline
            setattr(self.dataset, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one sample."""
        worker = get_worker_info()
        if worker:
            _tie_to_parent()
        slot = (worker.id if worker else 0) % len(self._loading)
        at = int(index)
        for _ in range(self._tolerated + 1):
            self._loading[slot] = at
            if isinstance(index, SampleIndex) and self._seed is not None:
                seed_sample(self._seed, index.epoch, index.number)
            try:
                sample = self.dataset[at]
                self._loading[slot] = -1
                return sample
            except Exception:  # pipelines raise anything on a broken image
                self._loading[slot] = -1
                self._record_or_reraise(at)
            at = (at + 1) % len(self)
        raise BadImageError(self._too_many())

    def loading(self) -> list[str]:
        """Return the files that workers are loading, or were when they died."""
        return [self._path(at) for at in self._loading if at >= 0]

    def _path(self, index: int) -> str:
        return str(self.dataset.get_data_info(index).get('img_path', ''))

    def _record_or_reraise(self, index: int) -> None:
        """Record a broken image; reraise the current error if the image is whole."""
        path = self._path(index)
        reason = read_size(Path(path)) if '://' not in path else 'it was not read'
        if not isinstance(reason, str):
            raise  # noqa: PLE0704 - the pipeline's own error
        if not self._tolerated:
            skip = '' if self._seed is None else ' Or skip it: --skip-bad-images N.'
            raise BadImageError(
                f'image {path} cannot be read: {printable(reason)}. Repair or remove '
                f'it; eca-mmdet data check lists all such images.{skip}'
            ) from None
        listed = self._listed()
        if path not in listed:
            with open(self._list, 'a', encoding='utf-8') as file:
                file.write(f'{printable(path)}\t{printable(reason)}\n')
            if len(listed) >= self._tolerated:
                raise BadImageError(self._too_many()) from None

    def _listed(self) -> list[str]:
        path = Path(self._list)
        lines = path.read_text('utf-8').splitlines() if path.is_file() else []
        return [line.partition('\t')[0] for line in lines]

    def _too_many(self) -> str:
        listed = self._listed()
        return (
            f'{len(listed)} images cannot be read, and --skip-bad-images allows '
            f'{self._tolerated}: {", ".join(listed[:3])} ... all of them with their '
            f'reasons: {self._list}. Repair or remove them, or allow more.'
        )


@functools.cache  # once in each worker
def _tie_to_parent() -> None:
    """Let this worker end with the process that it loads for, however that ends.

    PyTorch's workers look for their parent as well; but one with batches that were not
    taken then waits forever for its pipe, which the others hold open.
    """
    set_death_signal = 1  # PR_SET_PDEATHSIG of Linux
    with contextlib.suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
