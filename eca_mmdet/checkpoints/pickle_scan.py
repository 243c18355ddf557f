"""What a pickle would build, counted before it is built.

``weights_only`` loading runs no code, but a few hundred bytes can still ask it for more
memory than there is (``bytearray(10**12)``), or for years: hashing a tuple that has
itself twice, forty times over, visits 2^40 tuples. The opcodes are followed here with
sizes in place of values.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

_MOST = 10**7
"""Parts or letters of one key; elements that a constructor is asked for."""

_MOST_NESTED = 200
_MOST_OPERATIONS = 20_000_000
_GROWING = frozenset({'_codecs encode'})
_CALLS = frozenset({'REDUCE', 'NEWOBJ', 'NEWOBJ_EX'})
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class ExcessiveError(ValueError):
    """A pickle that asks for too much; the message says of what."""


@dataclass(frozen=True, slots=True)
class _Value:
    """What is known of a value on the stack.

    Attributes:
        size: parts and letters that are visited when it is hashed or encoded.
        product: of the integers in it; what it asks for as a constructor's argument.
        depth: of tuples in tuples.
        name: of a class or function.
    """

    size: int = 1
    product: int = 1
    depth: int = 0
    name: str = ''


_PLAIN = _Value()


def scan(stream: IO[bytes], pickles: int = 1) -> None:
    """Follow pickles that lie behind each other.

    Args:
        stream: at the start of the first.
        pickles: how many.

    Raises:
        ExcessiveError: one would grow out of all proportion.
        ValueError: it is damaged.
    """
    left = _MOST_OPERATIONS
    for _ in range(pickles):
        machine = _Machine()
        for operation, argument, _ in pickletools.genops(stream):
            try:
                machine.do(operation, argument)
            except (IndexError, KeyError) as error:
                raise ValueError(f'{operation.name} has nothing to work on') from error
            left -= 1
            if not left:
                raise ExcessiveError(f'of more than {_MOST_OPERATIONS:,} operations')


class _Machine:
    """The stack of the unpickler, with sizes in place of values."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}

    def do(self, operation: Any, argument: Any) -> None:
        """Do one operation."""
        name = operation.name
        if name == 'MARK':
            self.marks.append(len(self.stack))
        elif name in _TUPLES:
            self._push_tuple(self._pop(_TUPLES[name]))
        elif name == 'TUPLE':
            self._push_tuple(self._pop_mark())
        elif name in ('BINGET', 'LONG_BINGET', 'GET'):
            self.stack.append(self.memo[argument])
        elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
            self.memo[argument] = self.stack[-1]
        elif name == 'MEMOIZE':
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in _CALLS:
            self._call(*self._pop(2))
        else:
            self._other(operation, argument)

    def _other(self, operation: Any, argument: Any) -> None:
        """Do what only takes from the stack, or puts a plain value on it."""
        before = operation.stack_before
        if pickletools.markobject in before:
            self._pop_mark()
            self._pop(before.index(pickletools.markobject))
        else:
            self._pop(len(before))
        self.stack += [_value_of(operation.name, argument)] * len(operation.stack_after)

    def _pop(self, count: int) -> list[_Value]:
        if count > len(self.stack):
            raise IndexError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _pop_mark(self) -> list[_Value]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _push_tuple(self, parts: Iterable[_Value]) -> None:
        size, product, depth = 1, 1, 0
        for one in parts:
            size += one.size
            product = min(product * max(one.product, 1), 1 << 80)
            depth = max(depth, one.depth)
        if size > _MOST or depth > _MOST_NESTED:
            raise ExcessiveError('with a key that has itself in it many times')
        self.stack.append(_Value(size, product, depth + 1))

    def _call(self, function: _Value, arguments: _Value) -> None:
        # Tensors and storages of the file are checked when they are read.
        own = function.name.rpartition(' ')[2]
        sized = own == 'bytearray' or own.endswith(('Tensor', 'Storage', 'ndarray'))
        if sized and arguments.product > _MOST:
            raise ExcessiveError(f'that asks for {arguments.product:,} empty elements')
        size = arguments.size
        if function.name in _GROWING:
            size *= 4  # a letter becomes up to four bytes
            if size > _MOST:
                raise ExcessiveError('with a text that is encoded again and again')
        self.stack.append(_Value(size, depth=arguments.depth))


def _value_of(name: str, argument: Any) -> _Value:
    if name == 'GLOBAL':
        return _Value(name=str(argument))
    if isinstance(argument, int) and name != 'PROTO':
        return _Value(product=abs(argument))
    if isinstance(argument, (str, bytes, bytearray)):
        return _Value(size=len(argument))
    return _PLAIN
