"""The columns of annotation files are the same with and without their index."""

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eca_mmdet.datasets import coco
from eca_mmdet.datasets import ground_truth as module
from eca_mmdet.datasets.ground_truth import GroundTruth, read_ground_truth
from eca_mmdet.utils.errors import UserError
from tests.support.coco_contents import CONTENTS


def outcome(path):
    try:
        return read_ground_truth(path)
    except UserError as error:
        return str(error)


def both(path):
    """What is read with the index and without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, 'read_index', lambda path: None)
        expected = outcome(path)
    return outcome(path), expected


def assert_same(found, expected):
    for field in fields(GroundTruth):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if field.name == 'sound_masks':
            assert ours.shape == theirs.shape  # only an index has looked at them
        elif isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, field.name)
        elif field.name == 'segmentations':
            assert [*ours] == [*theirs]
            assert [ours[at] for at in range(len(ours))] == [*theirs]
        else:
            assert ours == theirs, field.name
    assert found.mask_faults() == expected.mask_faults()


ENTRY = {'id': 0, 'image_id': 0, 'category_id': 0, 'bbox': [1, 1, 9, 9], 'area': 81}
EMPTY_MASK = {
    'images': [{'id': 0, 'file_name': 'a.jpg', 'width': 40}],
    'categories': [{'id': 0, 'name': 'cat'}],
    'annotations': [ENTRY | {'segmentation': []}, ENTRY],
}


@settings(max_examples=150, deadline=None)
@example(content=EMPTY_MASK, one='annotations')
@given(content=CONTENTS, one=st.sampled_from(('annotations', 'images', 'none')))
def test_any_file_has_the_same_columns_and_errors(tmp_path_factory, content, one):
    path = tmp_path_factory.getbasetemp() / 'A.json'
    for entry in content.get('annotations', ())[:-1]:  # mostly sound
        entry.setdefault('bbox', [1, 1, 9, 9])
        entry['bbox'] = entry['bbox'] or [1, 1, 9, 9]
        entry.setdefault('area', 81)
    for entry in content['images']:
        width = entry.get('width')
        entry['width'] = 40 if one == 'none' or not width else width
    path.write_text(json.dumps(content))
    found, expected = both(path)
    if isinstance(expected, str):
        assert found == expected
        return
    assert_same(found, expected)
    names = [*found.category_names[:1], 'other']
    assert_same(found.only(names), expected.only(names))
    assert_same(found.part(1, 3), expected.part(1, 3))
    assert_same(found.without_masks(), expected.without_masks())


def test_a_sound_file_is_not_decoded_into_objects(tmp_path, monkeypatch):
    content = {
        'images': [{'id': 3, 'file_name': 'a.jpg', 'width': 50, 'height': 40}],
        'categories': [{'id': 9, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
        'annotations': [
            {
                'id': 1,
                'image_id': image,
                'category_id': category,
                'bbox': [1, 2, 3, 4],
                'area': 12.5,
                'segmentation': [[1, 1, 9, 1, 9, 9]],
            }
            for image, category in ((3, 2), (4, 2), (3, 9), (3, 1))
        ],
    }
    path = tmp_path / 'A.json'
    path.write_text(json.dumps(content))
    found, expected = both(path)
    assert_same(found, expected)
    assert found.category.tolist() == [0, 1] and len(found.notes) == 2
    monkeypatch.setattr(module, '_values', None)
    assert len(read_ground_truth(path).areas) == 2
