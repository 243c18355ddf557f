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


def test_mask_is_mixed_in_and_outlined():
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 30:39, 50:80] = True  # up to the edge of the image
    mask[0, 33:36, 60:70] = False  # a hole
    outside = np.array([[200.0, 0, 210, 9]])
    drawn = draw_objects(grey(), outside, np.array([0]), [''], mask)
    expected = grey()
    outline(expected, 50, 30, 79, 38, COLOURS[0])
    inner = np.rint([0.55 * 100 + 0.45 * c for c in COLOURS[0]])
    expected[31:38, 51:79] = inner
    outline(expected, 60, 32, 69, 36, COLOURS[0])
    outline(expected, 59, 33, 70, 35, COLOURS[0])
    expected[33:36, 60:70] = 100
    np.testing.assert_array_equal(drawn, expected)


def test_outlines_of_masks_lie_over_masks():
    """Two objects of one class are told apart where their masks overlap."""
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 10:40, 10:40] = masks[1, 20:50, 20:50] = True
    nowhere = np.zeros((2, 4)) - 9
    drawn = draw_objects(grey(), nowhere, np.array([3, 3]), ['', ''], masks)
    assert (drawn[20, 20:50] == COLOURS[3]).all() and (
        drawn[21, 21] == drawn[15, 15]
    ).all()


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


def label_of(box, others=(), size=(200, 200), text='name'):
    """Return first and last rows and columns of the label of the first box."""
    boxes = np.array([box, *others], float)
    texts = [text, *[''] * len(others)]
    labels = np.full(len(boxes), 3)
    without = draw_objects(grey(*size), boxes, labels, [''] * len(boxes))
    changed = draw_objects(grey(*size), boxes, labels, texts) != without
    rows, columns = np.nonzero(changed.any(2))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize(
    ('box', 'others', 'sides'),
    [
        ((20, 100, 80, 130), (), 'above'),
        ((20, 2, 80, 32), (), 'below'),
        ((20, 0, 80, 200), (), 'right'),
        ((120, 0, 200, 200), (), 'left'),
        ((0, 0, 200, 200), (), 'in'),
        ((195, 100, 200, 110), (), 'above'),
        ((20, 100, 80, 130), [(0, 70, 100, 98)], 'below'),
        ((20, 100, 80, 130), [(0, 70, 100, 98), (0, 132, 100, 160)], 'right'),
    ],
)
def test_label_lies_where_it_hides_nothing(box, others, sides):
    top, bottom, left, right = label_of(box, others)
    x1, y1, x2, y2 = box
    found = {
        'above': bottom < y1,
        'below': top >= y2,
        'right': left >= x2,
        'left': right < x1,
    }
    assert [side for side, holds in found.items() if holds] == [sides] * (sides != 'in')
    assert 0 <= top and bottom < 200 and 0 <= left and right < 200


def test_labels_of_equal_boxes_do_not_overlap():
    boxes, count = np.array([[100.0, 140, 200, 180]] * 6), 6
    alone, drawn = (
        draw_objects(grey(300, 300), boxes[:n], np.arange(n), ['a long name'] * n)
        for n in (1, count)
    )
    area = (alone == COLOURS[0]).all(2).sum()
    lines = 2 * 100 + 2 * 38  # of the first box, which is on top
    found = [(drawn == colour).all(2).sum() for colour in COLOURS[:count]]
    assert found == [area] + [area - lines] * (count - 1)


def test_what_is_drawn_changes_no_other_pixel():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 400, 3), np.uint8)
    corners = rng.integers(0, 300, (12, 2))
    boxes = np.hstack([corners, corners + rng.integers(5, 90, (12, 2))])
    texts = [f'name {number}' for number in range(12)]
    drawn = draw_objects(image, boxes, np.zeros(12, int), texts, line=3)
    changed = (drawn != image).any(2)
    labelled = draw_objects(image, boxes, np.zeros(12, int), [''] * 12, line=3) != drawn
    inner = np.ones((300, 400), bool)
    for x1, y1, x2, y2 in boxes:
        inner[y1:y2, x1 : x1 + 3] = inner[y1:y2, max(x1, min(x2, 400) - 3) : x2] = False
        inner[y1 : y1 + 3, x1:x2] = inner[max(y1, min(y2, 300) - 3) : y2, x1:x2] = False
    assert not (changed & inner & ~labelled.any(2)).any()
    assert (drawn[~inner & ~labelled.any(2)] == COLOURS[0]).all()


def test_lines_leave_room_for_a_small_object():
    box = np.array([[1000.0, 1000, 1024, 1030]])
    drawn = draw_objects(grey(3000, 4000), box, np.array([1]), [''])
    assert (drawn[1000:1030, 1000:1024] == 100).all(2).sum() == 16 * 22
    drawn = draw_objects(grey(3000, 4000), box, np.array([1]), [''], line=9)
    assert (drawn[1000:1030, 1000:1024] == 100).all(2).sum() == 6 * 12


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
    with pytest.raises(ValueError, match='must '):
        draw_objects(*arguments)
