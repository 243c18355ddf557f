"""Sound bytes made bad, by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator


def draw(name: str) -> random.Random:
    """Return random numbers that belong to a name."""
    return random.Random(name)


def truncated(raw: bytes, name: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield copies that end early, one in each of ``count`` equal stretches."""
    numbers = draw(f'cut {name}')
    for index in range(count):
        share = (index + numbers.random()) / count
        yield f'cut-at-{share:.3f}', raw[: int(share * len(raw))]


def flipped(raw: bytes, name: str, count: int, bits: int = 8) -> Iterator:
    """Yield copies with ``bits`` bits turned over, half of them near the ends."""
    numbers = draw(f'flip {name}')
    for index in range(count):
        copy = bytearray(raw)
        for _ in range(bits):
            at = numbers.randrange(len(raw))
            if numbers.random() < 0.5:
                at = numbers.randrange(min(600, len(raw))) * numbers.choice((1, -1))
            copy[at] ^= 1 << numbers.randrange(8)
        yield f'flip-{index}', bytes(copy)


def spliced(raw: bytes, name: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield copies with a stretch zeroed, doubled, removed or put elsewhere."""
    numbers = draw(f'splice {name}')
    for index in range(count):
        a, b = sorted(numbers.randrange(len(raw)) for _ in range(2))
        b = min(b, a + len(raw) // 4)
        kind = ('zeroed', 'doubled', 'removed', 'moved')[index % 4]
        made = {
            'zeroed': raw[:a] + bytes(b - a) + raw[b:],
            'doubled': raw[:b] + raw[a:b] + raw[b:],
            'removed': raw[:a] + raw[b:],
            'moved': raw[b:] + raw[:b],
        }[kind]
        yield f'{kind}-{index}', made


def encoded(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield a text in encodings that are not UTF-8."""
    for name in ('utf-16', 'utf-16-le', 'utf-32', 'utf-8-sig', 'cp037', 'utf-7'):
        yield name, text.encode(name, 'replace')
    yield 'latin-1', text.replace('a', 'é', 1).encode('latin-1', 'replace')
    yield 'nul-bytes', text.replace('"', '"\0', 3).encode()
    yield 'overlong', text.encode().replace(b'"', b'\xc0\xa2', 2)
    yield 'lone-surrogate', text.encode().replace(b'"', b'"\xed\xa0\x80', 1)
