"""Objects drawn over images: which pixels change, and to what."""

import math

import numpy as np
import pytest

from eca_mmdet.inference import drawing
from eca_mmdet.inference.drawing import COLOURS, draw_objects

NOTHING = np.zeros((0, 4))


def grey(height=60, width=80):
    return np.full((height, width, 3), 100, np.uint8)


def outline(image, x1, y1, x2, y2, colour):
    """Paint first and last rows and columns of a box, by hand."""
    image[y1, x1 : x2 + 1] = image[y2, x1 : x2 + 1] = colour
    image[y1 : y2 + 1, x1] = image[y1 : y2 + 1, x2] = colour


@pytest.mark.parametrize(
    ('box', 'corners'),
    [
        ((10, 20, 30, 40), (10, 20, 29, 39)),
        ((10.6, 20.2, 29.5, 39.1), (10, 20, 29, 39)),  # every pixel that it touches
        ((-50, -50, 500, 500), (0, 0, 79, 59)),
        ((70, 50, 90, 55), (70, 50, 79, 54)),
        ((5, 5, 5, 25), (5, 5, 5, 24)),  # no width: a line
        ((5, 5, 5, 5), (5, 5, 5, 5)),
    ],
)
def test_box_covers_the_pixels_it_touches(box, corners):
    expected = grey()
    outline(expected, *corners, COLOURS[2])
    drawn = draw_objects(grey(), np.array([box]), np.array([2]), [''])
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    'box',
    [
        (100, 0, 120, 20),
        (-30, 0, -1, 20),
        (0, 60, 20, 80),
        (0, -9, 20, 0),
        (30, 10, 20, 20),
        (0, 0, math.nan, 9),
        (0, 0, math.inf, 9),
    ],
)
def test_box_that_is_nowhere_is_left_out(box):
    drawn = draw_objects(grey(), np.array([box]), np.array([0]), ['name'])
    np.testing.assert_array_equal(drawn, grey())


def test_mask_is_mixed_into_its_pixels_alone():
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 3:9, 50:70] = True
    outside = np.array([[200.0, 0, 210, 9]])
    drawn = draw_objects(grey(), outside, np.array([0]), [''], mask)
    mixed = np.array([0.55 * 100 + 0.45 * c for c in COLOURS[0]])
    assert np.abs(drawn[mask[0]] - mixed).max() <= 1
    np.testing.assert_array_equal(drawn[~mask[0]], grey()[~mask[0]])


def test_first_object_is_on_top():
    boxes = np.array([[10, 10, 40, 40]] * 2)
    masks = np.zeros((2, 60, 80), bool)
    masks[:, 20:30, 20:30] = True
    both = draw_objects(grey(), boxes, np.array([4, 5]), ['', ''], masks)
    first = draw_objects(grey(), boxes[:1], np.array([4]), [''], masks[:1])
    np.testing.assert_array_equal(both, first)


@pytest.mark.parametrize('masks', [None, np.zeros((0, 60, 80), bool)])
def test_without_objects_the_copy_is_equal_and_separate(masks):
    image = grey()
    drawn = draw_objects(image, NOTHING, np.zeros(0, int), [], masks)
    np.testing.assert_array_equal(drawn, image)
    drawn[:] = 0
    assert (image == 100).all()


def test_nothing_is_changed_in_place():
    image, boxes = grey(), np.array([[10.0, 20, 30, 40]])
    masks = np.ones((1, 60, 80), bool)
    image.setflags(write=False)
    drawn = draw_objects(image[:, ::-1], boxes, np.array([1]), ['x'], masks)
    assert drawn.flags.writeable and (image == 100).all() and masks.all()
    assert boxes.tolist() == [[10, 20, 30, 40]]


@pytest.mark.parametrize('side', [1, 8, 64, 640])
@pytest.mark.parametrize('text', ['x', 'Käfer 龍 0.97', 'a\nb\x1b[31m', 'word ' * 99])
def test_any_text_on_any_image(side, text):
    box = np.array([[0.0, 0, side, side]])
    drawn = draw_objects(grey(side, side), box, np.array([0]), [text])
    assert drawn.shape == (side, side, 3)
    assert (drawn[0, 0] == COLOURS[0]).all()


def test_label_lies_above_its_box_or_in_it():
    def coloured_rows(y):
        box = np.array([[20.0, y, 60, y + 30]])
        drawn = draw_objects(grey(200, 200), box, np.array([3]), ['name'])
        return np.flatnonzero((drawn == COLOURS[3]).all(2)[:, 25])

    assert coloured_rows(100).min() < 95
    assert coloured_rows(2).min() == 2


def test_label_at_the_right_edge_is_moved_in():
    box = np.array([[195.0, 100, 200, 110]])
    drawn = draw_objects(grey(200, 200), box, np.array([3]), ['a long name'])
    ends = np.flatnonzero((drawn == COLOURS[3]).all(2)[95])
    assert ends.max() == 199 and ends.min() < 170


@pytest.mark.parametrize(
    ('size', 'line', 'letters'),
    [((64, 64), 1, 7), ((160, 160), 1, 9), ((480, 640), 2, 12), ((3000, 4000), 12, 77)],
)
def test_lines_and_letters_grow_with_the_image(size, line, letters):
    assert drawing.line_width(*size) == line
    assert drawing.font_size(*size) == letters


@pytest.mark.parametrize('colour', COLOURS)
def test_letters_can_be_read_on_each_colour(colour):
    def luminance(rgb):
        parts = [c / 255 for c in rgb]
        parts = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        ]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    pair = sorted((luminance(colour), luminance(drawing.text_colour(colour))))
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5  # WCAG AA


@pytest.mark.parametrize(
    'arguments',
    [
        (np.zeros((9, 9), np.uint8), NOTHING, [], []),
        (np.zeros((9, 9, 3)), NOTHING, [], []),
        (grey(), np.zeros((2, 4)), [0], ['', '']),
        (grey(), np.zeros((1, 4)), [0], []),
        (grey(), np.zeros((1, 4)), [0], [''], np.zeros((2, 60, 80), bool)),
        (grey(), np.zeros((1, 4)), [0], [''], np.zeros((1, 80, 60), bool)),
    ],
)
def test_what_does_not_match_is_refused(arguments):
    with pytest.raises(ValueError, match='must be'):
        draw_objects(*arguments)
