"""Random numbers as a function of where training is, not of what was drawn before.

A resumed run then draws what the uninterrupted one would have, whatever the number of
data loader workers; no state of any generator has to be kept.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
_STEP, _SAMPLE = 1, 2


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed every generator of this process, for one training step.

    Args:
        seed: of the run.
        rank: of the process; each draws its own.
        step: steps done before it.
    """
    import torch

    words = _words(seed, _STEP, rank, step)
    _seed_python_and_numpy(words)
    torch.manual_seed(_as_int(words))  # of all devices


def seed_sample(seed: int, epoch: int, number: int) -> None:
    """Seed the generators that a data pipeline uses, for one image.

    Args:
        seed: of the run.
        epoch: from 0.
        number: of the draw within the epoch, counted over all processes.
    """
    import torch

    words = _words(seed, _SAMPLE, epoch, number)
    _seed_python_and_numpy(words)
    torch.default_generator.manual_seed(_as_int(words))  # pipelines run on the CPU


def _words(*entropy: int) -> Words:
    """Return 4 well-mixed 32-bit words; neighbouring arguments give unlike ones."""
    # SeedSequence takes no negative numbers, and mmengine's seed may be any int.
    sequence = np.random.SeedSequence([value % 2**64 for value in entropy])
    return sequence.generate_state(4).astype(np.uint32)


def _as_int(words: Words) -> int:
    return int(words[0]) << 32 | int(words[1])


def _seed_python_and_numpy(words: Words) -> None:
    random.seed(_as_int(words[2:]))
    np.random.seed(words)
