"""User-facing exceptions. Each carries a stable code, which tests and callers check."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from eca_mmdet.utils.text import clipped, first, suggestion

_LONGEST = 1000
"""Characters of a printed line: a config may raise a message of any length."""


class UserError(Exception):
    """Bad input: what is wrong, what was received, and what to do, in one line.

    ``code`` is a stable name of the error in kebab case, e.g. ``'config-not-found'``.
    Wording may change between versions; codes do not.
    """

    code = 'bad-input'
    exit_code = 2

    def __init__(self, message: object = '', *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class RunError(UserError):
    """A run that started and cannot continue: a broken image, a full disk, a NaN."""

    code = 'run-failed'
    exit_code = 1


class CommandError(RunError):
    """A command that ran in a process of its own failed, or left no result."""


class FaultsError(UserError):
    """Several faults at once: a line for each, and a last line with what to do.

    Text taken from files is escaped already, so it adds no lines of its own.
    """

    code = 'faulty-data'


class WeightsError(UserError, ValueError):
    """A checkpoint that cannot be read, is not recognised, or does not fit."""

    code = 'bad-checkpoint'


class MissingWeightsError(WeightsError, FileNotFoundError):
    """A checkpoint that does not exist or cannot be downloaded."""

    code = 'file-not-found'


class MissingPackageError(UserError, ImportError):
    """An optional package that is required here and not installed."""

    code = 'package-missing'


def require_fraction(name: str, value: float) -> None:
    """Reject a score threshold or another share outside 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(
            f'{name} must be from 0 to 1; got {value!r}.', code='option-invalid'
        )


def require_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Reject an argument that is none of the known values."""
    if value not in known:
        raise UserError(
            f'{name} must be one of {", ".join(known)}; got {value!r}.',
            code='option-invalid',
        )


def require_package(name: str, purpose: str, install: str) -> Any:
    """Import and return a module; raise MissingPackageError without it.

    ``install`` are the arguments of pip.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f'{error.name or name} is not installed'
        if not isinstance(error, ModuleNotFoundError):  # e.g. without libGL.so.1
            reason = f'{name} cannot be loaded ({error})'
        raise MissingPackageError(
            f'{reason}, which {purpose} needs: pip install {install}'
        ) from error


def require_classes(names: Iterable[str], known: Sequence[str], owner: str) -> None:
    """Reject names that are not classes of ``owner``, e.g. an annotation file."""
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f'no class {", ".join(map(repr, unknown))} in {owner}, which has '
            f'{first(list(map(repr, known)), 10)}.{suggestion(unknown[0], known)}',
            code='unknown-class',
        )


def shown(error: BaseException) -> str:
    """Return the message as printed: one line, or the lines of a ``FaultsError``."""
    lines = str(error).split('\n') if isinstance(error, FaultsError) else [str(error)]
    return '\n'.join(clipped(line, _LONGEST) for line in lines)
