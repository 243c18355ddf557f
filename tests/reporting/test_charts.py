"""The values behind the charts."""

import math

import pytest

from eca_mmdet.reporting.sections import MOST_POINTS, thin


@pytest.mark.parametrize('gap', [None, 7])
def test_a_long_line_keeps_the_ends_of_each_step(gap):
    """The lowest and highest of every step stay; where all are missing, a gap does."""
    count = 3 * MOST_POINTS
    values = [math.sin(i * 1.7) * i for i in range(count)]
    pairs = [[float(i), v] for i, v in enumerate(values)]
    if gap:
        for i in range(0, count, gap):
            pairs[i][1] = None
        pairs[60:90] = [[x, None] for x, _ in pairs[60:90]]
    thinned = thin(pairs)
    assert len(thinned) <= MOST_POINTS + 2
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    step = -(-count // (MOST_POINTS // 2))
    for start in range(0, count, step):
        group = [v for _, v in pairs[start : start + step] if v is not None]
        kept = [v for x, v in thinned if start <= x < start + step]
        if group:
            assert {min(group), max(group)} == set(kept)
        else:
            assert set(kept) == {None}
    assert thin(pairs[:MOST_POINTS]) == pairs[:MOST_POINTS]
