"""The index of an annotation file gives what the file says, or refuses it."""

import copy
import json
import math
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.entries import is_polygon, is_segmentation
from eca_mmdet.datasets.index import ChangedFileError, Mask, read_index
from eca_mmdet.utils.errors import UserError
from tests.support.broken_data import sound
from tests.support.coco_contents import CONTENTS


def index_of(path, content, **options):
    path.write_text(json.dumps(content, **options), 'utf-8')
    return read_index(path)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return tmp_path_factory.mktemp('index') / 'file.json'


def same(found, expected):
    """Whether values and types are equal at any depth."""
    assert json.dumps(found) == json.dumps(expected)


@settings(max_examples=150, deadline=None)
@given(
    content=CONTENTS,
    indent=st.sampled_from((None, 1)),
    ascii_only=st.booleans(),
)
def test_columns_and_entries_are_those_of_the_file(file, content, indent, ascii_only):
    index = index_of(file, content, indent=indent, ensure_ascii=ascii_only)
    annotations = content.get('annotations', [])
    assert index.annotated == ('annotations' in content)
    assert index.sha256 == read_annotations(file).sha256
    same(index.images(range(len(index.image_ids))), content['images'])
    same(index.categories(), content['categories'])
    same(index.annotations(range(len(index))), annotations)
    same(
        index.segmentations(range(len(index))),
        [one.get('segmentation') for one in annotations],
    )
    assert index.file_names() == [one['file_name'] for one in content['images']]
    last_image = {one['id']: at for at, one in enumerate(content['images'])}
    last_category = {one['id']: at for at, one in enumerate(content['categories'])}
    for at, one in enumerate(annotations):
        assert index.ids[at] == one['id']
        assert index.image[at] == last_image.get(one['image_id'], -1)
        assert index.category[at] == last_category.get(one['category_id'], -1)
        box = one.get('bbox') or [math.nan] * 4
        np.testing.assert_array_equal(index.boxes[at], np.array(box, float))
        np.testing.assert_array_equal(index.areas[at], float(one.get('area', math.nan)))
        crowd = one.get('iscrowd')
        assert index.crowd[at] == (-1 if crowd is None else int(crowd))
        assert index.ignore[at] == bool(one.get('ignore'))
        mask = one.get('segmentation')
        assert (index.masks[at] == Mask.NONE) == (not mask)
        if index.masks[at] == Mask.SOUND:
            assert is_segmentation(mask)
            image = content['images'][index.image[at]]
            if isinstance(mask, dict):
                assert mask['size'] == [image['height'], image['width']]
            else:
                assert all(map(is_polygon, mask))
        elif isinstance(mask, list):
            good = is_segmentation(mask) and all(map(is_polygon, mask))
            assert not (mask and good)
    for image in range(len(content['images'])):
        expected = [at for at in range(len(index)) if index.image[at] == image]
        assert index.of_image(image).tolist() == expected


REFUSED = {
    'text id': ('annotations.0.id', 'a'),
    'no id': ('annotations.0.id', None),
    'float id': ('annotations.0.image_id', 10.0),
    'true for an id': ('images.0.id', True),
    'id of 20 digits': ('annotations.0.id', 10**20),
    'text category': ('categories.0.id', '1'),
    'unnamed category': ('categories.0.name', None),
    'no file name': ('images.0.file_name', ''),
    'text width': ('images.0.width', '64'),
    'NaN in a box': ('annotations.0.bbox', [1, 2, math.nan, 4]),
    'box of three': ('annotations.0.bbox', [1, 2, 3]),
    'infinite area': ('annotations.0.area', math.inf),
    'text area': ('annotations.0.area', '4'),
    'crowd of 2': ('annotations.0.iscrowd', 2),
    'text crowd': ('annotations.0.iscrowd', '0'),
    'no entry': ('annotations.0', 3),
    'no images': ('images', []),
    'annotations null': ('annotations', None),
    'half a character': ('images.0.file_name', '\ud800.jpg'),
    'NaN in a polygon': ('annotations.0.segmentation', [[math.nan] * 6]),
}


@pytest.mark.parametrize('path, value', REFUSED.values(), ids=REFUSED)
def test_what_is_refused(file, path, value):
    content = sound()
    node = content
    *parents, last = [int(part) if part.isdigit() else part for part in path.split('.')]
    for part in parents:
        node = node[part]
    node[last] = value
    assert index_of(file, content) is None


@pytest.mark.parametrize(
    'text',
    [
        '[]',
        '{"images": [',
        '\ufeff' + json.dumps(sound()),
        json.dumps(sound()) + '}',
        json.dumps(sound() | {'info': [[]] * 3}).replace('[]', '[' * 3000 + ']' * 3000),
    ],
    ids=['list', 'cut off', 'byte-order mark', 'more after it', 'deep'],
)
def test_text_that_is_refused(file, text):
    file.write_text(text, 'utf-8')
    assert read_index(file) is None


def test_bytes_that_are_no_text_are_refused_wherever_they_are(file):
    text = json.dumps(sound(), ensure_ascii=False).encode()
    file.write_bytes(text.replace('naïve'.encode(), b'na\xefve'))
    assert read_index(file) is None
    with pytest.raises(UserError, match='not-json|UTF-8|utf-8'):
        read_annotations(file)


def test_numbers_too_large_for_a_float_are_read_as_json_reads_them(file):
    content = sound()
    content['annotations'][0]['depth'] = math.inf
    file.write_text(json.dumps(content).replace('Infinity', '1e999'))
    index = read_index(file)
    assert index.annotations([0])[0]['depth'] == math.inf
    assert index.segmentations([0]) == [content['annotations'][0]['segmentation']]


def test_a_file_is_read_once_while_it_stays_the_same(file):
    index = index_of(file, sound())
    assert read_index(str(file)) is index
    other = sound()
    other['annotations'].pop()
    assert len(index_of(file, other)) == len(index) - 1


def test_what_is_no_regular_file_is_left_to_the_other_reader(tmp_path):
    os.mkfifo(tmp_path / 'pipe.json')
    for path in (tmp_path, tmp_path / 'no.json', tmp_path / 'pipe.json'):
        assert read_index(path) is None


def test_a_file_that_is_replaced_or_touched_is_still_read(file):
    index = index_of(file, sound())
    expected = index.annotations([1, 3])
    os.utime(file, ns=(1, 1))
    assert index.annotations([1, 3]) == expected
    file.with_suffix('.new').write_text('{}')
    os.replace(file.with_suffix('.new'), file)
    assert index.annotations([1, 3]) == expected
    assert copy.deepcopy(index) is index


@pytest.mark.parametrize('size', ['same', 'less', 'none'])
def test_a_file_that_is_written_to_is_not(file, size):
    index = index_of(file, sound())
    text = file.read_text()
    with open(file, 'r+') as stream:  # the same inode
        if size == 'same':
            stream.write(text.replace('"bbox": [2', '"bbox": [3'))
            os.utime(file, ns=(1, 1))
        else:
            stream.truncate(100 if size == 'less' else 0)
    with pytest.raises(ChangedFileError) as caught:
        index.annotations([0])
    assert caught.value.code == 'file-unreadable'


def test_a_pickled_index_reads_its_file_again(file):
    index = index_of(file, sound())
    other = pickle.loads(pickle.dumps(index))
    assert other.annotations([2]) == index.annotations([2])
    np.testing.assert_array_equal(other.boxes, index.boxes)
    file.unlink()
    with pytest.raises(ChangedFileError):
        pickle.loads(pickle.dumps(index)).annotations([2])
