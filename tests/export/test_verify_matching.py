"""How far two lists of objects are apart, on objects whose distances are known."""

import numpy as np
import pytest

from eca_mmdet.export.parity import Distance, Report, distance
from eca_mmdet.inference.prediction import Prediction


def objects(boxes, scores, labels=None, masks=None):
    labels = np.zeros(len(scores), int) if labels is None else np.array(labels)
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Prediction(boxes, np.array(scores, float), labels, masks)


def limits(score, iou, count):
    return dict(score_threshold=score, nms_iou=iou, max_per_image=count)


A, B, C = [0, 0, 10, 10], [30, 0, 50, 20], [60, 60, 90, 70]


@pytest.mark.parametrize(
    ('one', 'other', 'counts'),
    [
        (objects([A, B], [0.9, 0.8]), objects([B, A], [0.8, 0.9]), (2, 0, 0)),
        (objects([A], [0.9], [1]), objects([A], [0.9], [2]), (0, 0, 2)),
        (objects([A, B], [0.9, 0.8]), objects([A], [0.9]), (1, 0, 1)),
        (objects([A], [0.9]), objects([A, C], [0.9, 0.0505]), (1, 1, 0)),
        (objects([A], [0.9]), objects([A, C], [0.9, 0.06]), (1, 0, 1)),
        # A full list ends where the scores are equal.
        (
            objects([A, B, C], [0.9, 0.8, 0.5]),
            objects([A, B, [0, 60, 9, 70]], [0.9, 0.8, 0.5002]),
            (2, 2, 0),
        ),
        # IoU 0.5 exactly: one suppresses, the other does not.
        (
            objects([A, [0, 0, 10, 5]], [0.9, 0.8]),
            objects([A], [0.9]),
            (1, 1, 0),
        ),
        # Equal scores: either may suppress the other.
        (objects([A], [0.9]), objects([[0, 0, 10, 8]], [0.9001]), (0, 2, 0)),
        (objects([A], [0.9]), objects([[0, 0, 10, 8]], [0.8]), (0, 0, 2)),
        (objects([A], [0.9]), objects([[0, 0, 10, 8]], [0.9], [1]), (0, 0, 2)),
        # At the limit, but the other list has no such pair: a box that is off.
        (objects([A], [0.9]), objects([[0, 0, 10, 5]], [0.8]), (0, 0, 2)),
        (objects([], []), objects([], []), (0, 0, 0)),
    ],
)
def test_objects_that_one_list_has(one, other, counts):
    found = distance(one, other, limits(0.05, 0.5, 3))
    assert (found.objects, found.ties, found.missing) == counts
    assert found.passes == (counts[2] == 0)
    back = distance(other, one, limits(0.05, 0.5, 3))
    assert (back.objects, back.ties, back.missing) == counts


@pytest.mark.parametrize(
    ('double', 'labels', 'missing'),
    [
        (A, [0, 0], 2),  # one that mmdet has not, which A should have suppressed
        (A, [0, 1], 1),
        ([0, 0, 10, 8], [0, 0], 2),
        ([0, 0, 10, 5.2], [0, 0], 2),  # IoU 0.52
        ([0, 0, 10, 5.05], [0, 0], 0),  # within 0.01 of the threshold
        ([0, 0, 10, 4.8], [0, 0], 1),
    ],
)
def test_objects_that_the_file_should_have_suppressed(double, labels, missing):
    """A copy of an object is no tie: what it would lean on has its partner."""
    file = objects([A, double], [0.9, 0.9], labels)
    found = distance(objects([A], [0.9]), file, limits(0.05, 0.5, 100))
    assert (found.objects, found.missing) == (1, missing)
    assert found.passes == (not missing)


@pytest.mark.parametrize('share', [0.08, 0.2, 1 / 3, 0.5])
def test_boxes_moved_by_a_share_of_their_width(share):
    """Two of ten narrow boxes, which no tie may excuse for they are too many."""
    at = np.arange(10) * 50.0
    boxes = np.stack((at, at, at + 20, at + 30), 1)
    moved = boxes.copy()
    moved[:2, [0, 2]] += 20 * share
    scores = np.full(10, 0.7)
    own = limits(0.05, 0.5, 100)
    assert distance(objects(boxes, scores), objects(boxes, scores), own).passes
    found = distance(objects(boxes, scores), objects(moved, scores), own)
    assert not found.passes


def test_distances_of_pairs():
    own = limits(0.05, 0.5, 100)
    masks = np.zeros((1, 20, 20), bool)
    masks[0, :10, :10] = True
    other = masks.copy()
    other[0, 0, :1] = False  # one pixel is let pass
    boxes = np.array([A]) + [[0, 0.04, 0, -0.02]]
    found = distance(
        objects([A], [0.5], masks=masks), objects(boxes, [0.4995], masks=other), own
    )
    assert found.box_px == pytest.approx(0.04) and found.passes
    assert (found.score, found.mask) == (pytest.approx(0.0005), 0)
    other[0, 0, :3] = False
    found = distance(
        objects([A], [0.5], masks=masks), objects([A], [0.5], masks=other), own
    )
    assert found.mask == pytest.approx(0.03) and not found.passes
    for wrong in (objects([A], [0.502]), objects([np.array(A) + 0.06], [0.5])):
        assert not distance(objects([A], [0.5]), wrong, own).passes
    assert not distance(objects([A], [np.nan]), objects([A], [0.5]), own).passes


def test_boxes_that_are_all_off_are_no_ties():
    own = limits(0.05, 0.5, 100)
    at = np.arange(40) * 20.0
    boxes = np.stack((at, at, at + 10, at + 10), 1)
    scores = np.linspace(0.3, 0.9, 40)
    found = distance(objects(boxes, scores), objects(boxes + 1, scores), own)
    assert (found.objects, found.missing) == (0, 0) and not found.passes
    swapped = boxes.copy()
    swapped[7] += 1  # one may be
    found = distance(objects(boxes, scores), objects(swapped, scores), own)
    assert (found.objects, found.ties) == (39, 2) and found.passes
    swapped[8:10] += 1
    found = distance(objects(boxes, scores), objects(swapped, scores), own)
    assert (found.objects, found.ties) == (37, 6) and not found.passes


@pytest.mark.parametrize(
    ('change', 'may_pass'),
    [
        ({}, True),
        ({'scores': np.linspace(0.2, 0.9, 40)}, False),  # their order is known
        ({'moved': 0.1}, False),  # a pair of boxes that is off
        ({'lower': 0.002}, False),  # a score that is off
        ({'lost': 6}, False),  # too many
        ({'double': True}, False),  # what the file should have suppressed
    ],
)
def test_order_of_nearly_equal_scores(change, may_pass):
    """Objects that only one list has decide nothing, unless something else is wrong."""
    at = np.arange(40) * 50.0
    boxes = np.stack((at, at, at + 20, at + 30), 1)
    scores = change.get('scores', 0.3 + np.arange(40) * 1e-4)
    lost = change.get('lost', 1)
    file, values = boxes[lost:].copy(), scores[lost:].copy()
    file[-1, 0] += change.get('moved', 0)
    values[-1] -= change.get('lower', 0)
    if 'double' in change:
        file, values = np.vstack((file, file[:1])), np.append(values, values[0])
    found = distance(
        objects(boxes, scores), objects(file, values), limits(0.05, 0.5, 100)
    )
    assert not found.passes and found.may_pass == may_pass
    report = Report(['objects'], [((1, 9, 9), found), ((1, 9, 9), Distance(9))])
    assert not report.passes and report.may_pass == may_pass
    wrong = Distance(9, missing=1, distinct=1)
    assert not Report(['objects'], [*report.rows, ((1, 9, 9), wrong)]).may_pass
