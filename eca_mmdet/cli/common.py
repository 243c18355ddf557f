"""Types of arguments, and of what commands are added to."""

from __future__ import annotations

import argparse
import math
from typing import TypeAlias

Commands: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'


def count(text: str) -> int:
    """Read a whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'must be 0 or more; got {text}')
    return value


def at_least_1(text: str) -> int:
    """Read a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more; got {text}')
    return value


def seed(text: str) -> int:
    """Read a seed: NumPy's are below 2**32, and workers and ranks add to it."""
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f'must be from 0 to 2**31 - 1; got {text}')
    return value


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise argparse.ArgumentTypeError(f'must be from 0 to 1; got {text}')
    return value


def positive(text: str) -> float:
    """Read a number from 0."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f'must be 0 or more; got {text}')
    return value


def share(text: str) -> float:
    """Read a number between 0 and 1, neither of them."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'must be between 0 and 1; got {text}')
    return value
