"""Limits on what a PyTorch file may grow to, checked before it is loaded.

``torch.load(weights_only=True)`` runs no code, but it believes a zip (ten megabytes of
compressed zeros become ten gigabytes), and a pickle of a few hundred bytes can ask it
for more memory than there is, or for years: hashing a tuple that contains the same
tuple twice, forty levels deep, visits 2^40 tuples.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from torch import Tensor

from eca_mmdet.utils.errors import WeightsError

_MOST_GROWTH = 16
"""Bytes, or steps of unpickling, for a byte of the file. One tensor may have several
names; torch itself compresses nothing."""

_ALLOWANCE = 1 << 20
_LEGACY_PICKLES = 4  # number, version, machine, and the content
_ALLOCATING = re.compile(r'.*(bytearray|Tensor|Storage|ndarray)')
_TUPLES = frozenset({'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'})


def require_proportion(path: Path) -> None:
    """Refuse a PyTorch file whose content is out of all proportion to its size.

    Raises:
        WeightsError: it would exhaust memory or time.
        Exception: it is damaged; zipfile and pickletools raise a dozen types.
    """
    most = _most(path)
    with path.open('rb') as file:
        if file.read(2) != b'PK':
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _follow(file, most)
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > most:
            raise _excessive('it would unpack to much more than its own size')
        for member in members:
            if member.filename.endswith('.pkl'):
                with archive.open(member) as pickle:
                    _follow(pickle, most)


def require_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have many more elements than the file has values.

    Such can be looked at, but not written: a view becomes a tensor of its own then.

    Raises:
        WeightsError: they have.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if total > _most(path):
        raise WeightsError(
            f'{path} was refused: its tensors claim {total:,} bytes, and the file has '
            f'{path.stat().st_size:,}: it repeats one value for many.',
            code='checkpoint-unsafe',
        )


def _most(path: Path) -> int:
    return _MOST_GROWTH * path.stat().st_size + _ALLOWANCE


def _excessive(reason: str) -> WeightsError:
    return WeightsError(
        f'{reason}, which weights never need. It is damaged, or built to exhaust '
        'memory or time; do not use it.',
        code='checkpoint-unsafe',
    )


class _Value(NamedTuple):
    """What is known of a value on the unpickler's stack.

    Attributes:
        visits: values that hashing it visits; each level of nesting counts double,
            which bounds the depth as well.
        letters: of the texts in it.
        name: of a class or function.
    """

    visits: int = 1
    letters: int = 0
    name: str = ''


_MARK = _Value()


def _follow(stream: IO[bytes], most: int) -> None:
    """Follow one pickle with sizes in place of values, and count its steps."""
    stack: list[_Value] = []
    memo: dict[Any, _Value] = {}
    steps = 0
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name.endswith('GET'):
            stack.append(memo[argument])
        elif 'PUT' in name or name == 'MEMOIZE':
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == 'MARK':
            stack.append(_MARK)
        else:
            taken = _take(stack, operation.stack_before)
            value = _result(name, argument, taken)
            stack += [value] * len(operation.stack_after)
            steps += value.letters if name == 'REDUCE' else 0
        steps += stack[-1].visits if stack else 1
        if steps > most:
            raise _excessive('unpickling it would take far more steps than it has data')


def _take(stack: list[_Value], before: list[Any]) -> list[_Value]:
    """Remove what an operation takes from the stack, and return it."""
    taken = []
    count = len(before)
    if pickletools.markobject in before:
        while (value := stack.pop()) is not _MARK:
            taken.append(value)
        count = before.index(pickletools.markobject)
    return [*(stack.pop() for _ in range(count)), *taken][::-1]


def _result(name: str, argument: Any, taken: list[_Value]) -> _Value:
    """Return what an operation leaves on the stack."""
    if name in _TUPLES:
        visits = 1 + 2 * sum(value.visits for value in taken)
        return _Value(visits, sum(value.letters for value in taken))
    if name in ('REDUCE', 'NEWOBJ'):
        function, arguments = taken
        if _ALLOCATING.fullmatch(function.name):
            raise _excessive(f'it asks for an empty {function.name.split()[-1]}')
        # Encoding makes up to four bytes of a letter, and can be repeated.
        letters = 4 * arguments.letters if function.name == '_codecs encode' else 0
        return _Value(arguments.visits, letters)
    if name == 'GLOBAL':
        return _Value(name=str(argument))
    return _Value(letters=len(argument) if isinstance(argument, str) else 0)
