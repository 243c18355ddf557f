"""Annotation files of every oddity that the index of a file accepts, by hypothesis."""

from hypothesis import strategies as st

NAMES = ('a.jpg', 'b/ü.png', 'c "q".jpg', '\U0001f600.jpg')
TEXT = st.text(st.characters(codec='utf-8'), max_size=3)
EXTRA = st.dictionaries(
    st.sampled_from(('caption', 'attributes', '{', 'segmentation2')),
    st.one_of(TEXT, st.lists(st.integers()), st.just({'a': [{}, None, 1.5e300]})),
    max_size=2,
)
SIDE = st.one_of(st.integers(-1, 60), st.sampled_from((40, 40.0, 40.5, 2**31)))
COORDINATE = st.one_of(
    st.integers(-3, 60), st.floats(-3, 60), st.sampled_from((1e7, -3e9, 1e-320))
)
BOX = st.tuples(*[COORDINATE] * 2, *[SIDE] * 2).map(list)
POLYGON = st.lists(COORDINATE, max_size=9)
LONG = st.integers(95, 110).map(lambda n: [k % 37 for k in range(2 * n)])
RLE = st.fixed_dictionaries(
    {
        'size': st.sampled_from(([40, 40], [40, 41], [0, 4], [4], 'x', [40.0, 40])),
        'counts': st.sampled_from(
            ([1600], [800, 801], [-1, 1601], 'PT1', 'PR3', '!', '', [True, 1599], 7)
        ),
    }
)
SEGMENTATION = st.one_of(
    st.lists(st.one_of(POLYGON, LONG), max_size=3),
    st.just([[1, 1, 9, 1, 9, 9, 1, 9]]),
    RLE,
    st.sampled_from(
        (None, {}, 0, '', 'x', [1, 2], [[None]], [['1'] * 6], True, [[[]]])
    ),
)
FLAG = st.sampled_from((0, 1, True, False, 0.0, 1.0, None))


def optional(**keys):
    """Return a strategy of dictionaries that may lack any of the keys."""
    return st.fixed_dictionaries({}, optional=keys)


def merged(*parts):
    return st.tuples(*parts).map(
        lambda found: {k: v for d in found for k, v in d.items()}
    )


IMAGE = merged(
    st.fixed_dictionaries(
        {'id': st.integers(0, 5), 'file_name': st.sampled_from(NAMES)}
    ),
    optional(width=st.one_of(SIDE, st.none()), height=SIDE),
    EXTRA,
)
CATEGORY = merged(
    st.fixed_dictionaries(
        {'id': st.integers(0, 4), 'name': st.sampled_from(('cat', 'Cat', 'dog', 'é'))}
    ),
    EXTRA,
)
ANNOTATION = merged(
    EXTRA,
    st.fixed_dictionaries(
        {
            'id': st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)),
            'image_id': st.integers(0, 6),
            'category_id': st.integers(0, 5),
        }
    ),
    optional(
        bbox=st.one_of(BOX, st.just([1, 1, 9, 9.0]), st.none()),
        area=st.one_of(SIDE, st.floats(allow_nan=False, allow_infinity=False)),
        iscrowd=FLAG,
        ignore=FLAG,
        segmentation=SEGMENTATION,
    ),
)
CONTENTS = merged(
    st.fixed_dictionaries(
        {
            'images': st.lists(IMAGE, min_size=1, max_size=6),
            'categories': st.lists(CATEGORY, min_size=1, max_size=4),
        }
    ),
    optional(annotations=st.lists(ANNOTATION, max_size=12)),
    EXTRA,
)
"""Files that the index accepts."""
