"""The index of an annotation file gives what the file says, or refuses it."""

import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eca_mmdet.datasets import index as index_module
from eca_mmdet.datasets import index_cache
from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.entries import is_segmentation
from eca_mmdet.datasets.index import ChangedFileError, Mask, read_index
from eca_mmdet.datasets.masks import mask_api, mask_faults, to_rle
from eca_mmdet.datasets.rules.check import (
    check_content,
    suspect_content,
)
from eca_mmdet.utils.errors import UserError
from tests.support.broken_data import CASES, case_id, check_annotations, sound
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


def with_height(height):
    """A content of one object, on an image 9 px wide."""
    polygon = [1, 1, 9, 1, 9, 9, 1, 9]
    ids = {'id': 0, 'image_id': 0, 'category_id': 0}
    return {
        'images': [{'id': 0, 'file_name': 'a.jpg', 'width': 9, 'height': height}],
        'categories': [{'id': 0, 'name': 'cat'}],
        'annotations': [{**ids, 'bbox': [1, 1, 9, 9], 'segmentation': [polygon]}],
    }


@settings(max_examples=150, deadline=None)
@given(
    content=CONTENTS,
    indent=st.sampled_from((None, 1)),
    ascii_only=st.booleans(),
)
@example(content=with_height(2**31), indent=None, ascii_only=False)
@example(content=with_height(-9), indent=None, ascii_only=False)
@example(content=with_height(2**29), indent=None, ascii_only=False)
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
    whole = index.content()
    same(
        whole | {'annotations': [*whole.get('annotations', ())]},
        content | {'annotations': annotations},
    )
    assert whole == content and [*whole] == [*content]
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
            size = image['height'], image['width']
            assert not mask_faults([mask], [size])
            found = mask_api().toBbox(to_rle(mask, *size))
            assert mask_api().iou([found], [one['bbox']], [0]) > 0.2
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


def test_a_file_that_must_not_be_read_is_left_to_the_other_reader(file, monkeypatch):
    file.write_text(json.dumps(sound()))
    monkeypatch.setattr(os, 'open', lambda *_: (_ for _ in ()).throw(PermissionError()))
    index_module._indexes.clear()
    assert read_index(file) is None


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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of caches, for files of any size."""
    monkeypatch.setenv(index_cache.SWITCH, str(tmp_path / 'cache'))
    monkeypatch.setattr(index_module, '_LEAST_CACHED', 0)
    return tmp_path / 'cache'


@pytest.fixture
def old(tmp_path):
    """A file that was written long ago."""
    path = tmp_path / 'old.json'
    path.write_text(json.dumps(sound()))
    os.utime(path, ns=(10**18, 10**18))
    return path


def read_again(path):
    """Read an index as another process does."""
    index_module._indexes.clear()
    return read_index(path)


def require_equal(index, other):
    for name in index_module._COLUMNS:
        found, expected = getattr(index, name), getattr(other, name)
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert index.sha256 == other.sha256
    assert index.annotated == other.annotated
    same(index.annotations(range(len(index))), other.annotations(range(len(other))))


def test_a_cache_has_the_columns(cache, old, monkeypatch):
    index = read_again(old)
    (written,) = cache.iterdir()
    monkeypatch.setattr(index_module, '_build', None)
    monkeypatch.setattr(index_module, '_sha256', None)  # its time is enough
    other = read_again(old)
    assert other.shared
    require_equal(other, index)
    with pytest.raises(ValueError, match='read-only'):
        other.boxes[0] = 0
    index_module._indexes.clear()
    require_equal(pickle.loads(pickle.dumps(other)), index)
    assert written.stat().st_size > len(pickle.dumps(other))


def test_a_file_without_annotations_has_a_cache(cache, old):
    content = sound()
    del content['annotations']
    old.write_text(json.dumps(content))
    read_again(old)
    index = read_again(old)
    assert (index.shared, index.annotated, len(index)) == (True, False, 0)


@pytest.mark.parametrize('age', ['new', 'old'])
def test_a_file_that_changed_is_read_again(cache, old, age):
    if age == 'new':
        os.utime(old)  # the next change may leave the same time
    read_again(old)
    found = old.stat()
    with open(old, 'r+') as stream:
        text = stream.read()
        stream.seek(0)
        stream.write(text.replace('"bbox": [2', '"bbox": [3'))
    time = found.st_mtime_ns + (0 if age == 'new' else 1)
    os.utime(old, ns=(time, time))
    assert old.stat().st_size == found.st_size
    assert read_again(old).boxes[:, 0].tolist() == [3, 3, 3, 3]


def test_a_file_that_was_only_copied_keeps_its_cache(cache, old, monkeypatch):
    index = read_again(old)
    os.utime(old, ns=(10**18 + 1, 10**18 + 1))
    monkeypatch.setattr(index_module, '_build', None)
    require_equal(read_again(old), index)
    monkeypatch.setattr(index_module, '_sha256', None)
    require_equal(read_again(old), index)


def damage(path, how):
    data = path.read_bytes()
    path.unlink()  # it may be mapped
    if how == 'cut off':
        path.write_bytes(data[:-9])
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'foreign':
        path.write_bytes(b'{"images": []}' * 30)
    elif how == 'other tensors':
        save_file({'boxes': np.zeros(3)}, path, {'version': index_module._VERSION})
    elif how == 'other version':
        path.write_bytes(data.replace(b'coco-index-', b'coco-index_'))
    else:
        path.mkdir()


@pytest.mark.parametrize(
    'how',
    ['cut off', 'empty', 'foreign', 'other tensors', 'other version', 'folder'],
)
def test_a_damaged_cache_is_built_again(cache, old, how):
    index = read_again(old)
    (written,) = cache.iterdir()
    damage(written, how)
    require_equal(read_again(old), index)
    assert read_again(old).shared == (how != 'folder')


def test_without_a_place_for_caches(cache, old, monkeypatch):
    cache.write_text('a file, where no folder can be')
    index = read_again(old)
    assert (index.shared, len(index)) == (False, 4)
    monkeypatch.setenv(index_cache.SWITCH, '')
    assert not read_again(old).shared
    monkeypatch.delenv(index_cache.SWITCH)
    monkeypatch.setenv('XDG_CACHE_HOME', str(old.parent / 'xdg'))
    assert read_again(old).shared
    assert len([*(old.parent / 'xdg' / 'eca_mmdet').iterdir()]) == 1


def test_unused_caches_are_removed(cache, old):
    cache.mkdir()
    names = ('a.safetensors', '.b.safetensors.x.partial', 'other.txt')
    for name in names:
        (cache / name).write_text('')
        os.utime(cache / name, (1, 1))
    read_again(old)
    left = [path.name for path in cache.iterdir()]
    assert len(left) == 2
    assert 'other.txt' in left


BUILD = """
import os, signal, sys
from eca_mmdet.datasets import index
index._LEAST_CACHED = 0
if sys.argv[2] == 'kill':
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
print(index.read_index(sys.argv[1]).boxes.sum())
"""


def test_a_kill_leaves_no_cache_and_two_builders_one(cache, old):
    killed = subprocess.run([sys.executable, '-c', BUILD, old, 'kill'])
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in cache.iterdir()] == ['.partial']
    both = [
        subprocess.Popen(
            [sys.executable, '-c', BUILD, old, 'build'], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    index = read_again(old)
    outputs = [one.communicate()[0] for one in both]
    assert outputs == [f'{index.boxes.sum()}\n'.encode()] * 2
    assert sorted(path.suffix for path in cache.iterdir()) == [
        '.partial',
        '.safetensors',
    ]
    assert read_again(old).shared


def test_masks_that_need_no_look(file):
    content = sound()
    shapes = [[2, 3, 10, 3, 10, 9, 2, 9]], [[2, 3, 10, 3, 10, 9], [2, 3, 2, 9, 10, 9]]
    away, outside, thin = [40, 30, 50, 30, 50, 40], [-3, 3, 10, 3, 10, 9], [2, 3] * 4
    rles = [
        {'size': [48, 64], 'counts': counts}
        for counts in ([99, 6] + [42, 6] * 7 + [2631], 'bad')
    ]
    masks = [*shapes, *([one] for one in (away, outside, thin)), *rles, [], None]
    first = content['annotations'][0]
    content['annotations'] = [
        first | {'id': at + 1, 'segmentation': mask} for at, mask in enumerate(masks)
    ]
    index = index_of(file, content)
    none, sound_, other = Mask
    expected = [sound_, sound_, other, other, other, sound_, other, none, none]
    assert index.masks.tolist() == expected


def require_same_faults(index, content, classes=None):
    assert index is not None
    found = check_content(suspect_content(index.content(), index, classes))
    assert found == check_annotations(content, classes)
    return found


@settings(max_examples=200, deadline=None)
@given(content=CONTENTS, classes=st.sampled_from([None, ['cat', 'dog'], ['é', 'no']]))
def test_faults_are_those_of_the_whole_file(file, content, classes):
    require_same_faults(index_of(file, content), content, classes)


@pytest.mark.parametrize('case', CASES, ids=case_id)
def test_each_fault_among_sound_entries(file, case):
    content = case.content()
    for number in range(100, 180):
        one = sound()['annotations'][number % 4]
        one |= {'id': number, 'image_id': number}
        size = {'width': 64, 'height': 48}
        content['images'].append({'id': number, 'file_name': f'{number}.png'} | size)
        content['annotations'].append(one)
    index = index_of(file, content)
    if index is not None:
        found = require_same_faults(index, content)
        # Others of its class are trained on now.
        left = [fault.code for fault in found] + ['class-not-trained']
        assert case.code in left


def test_counts_hold_for_entries_that_are_not_decoded(file):
    content = sound()
    one = content['annotations'][0]
    dog = next(c['id'] for c in content['categories'] if c['name'] == 'dog')
    content['annotations'] = [one | {'id': n, 'category_id': dog} for n in range(1, 60)]
    found = require_same_faults(index_of(file, content), content, ['cat'])
    examples = {fault.code: fault.examples for fault in found}
    assert examples['nothing-to-train-on'] == ('59 x other-class',)

    box = {'bbox': [0, 0, 1, 1], 'area': 1, 'segmentation': []}
    content['annotations'] = [one | box | {'id': n} for n in range(1, 60)]
    content['annotations'][7]['bbox'] = [0.1, 0.1, 0.5, 0.5]  # so all are normalised
    found = require_same_faults(index_of(file, content), content)
    assert {fault.code: fault.count for fault in found}['normalised-bbox'] == 59


@pytest.mark.parametrize('side', [100.5, 2**31, 10**10])
def test_objects_on_images_of_no_size_count_as_in_the_whole_file(file, side):
    content = sound()
    image, one = content['images'][0], content['annotations'][0]
    image |= {'width': side, 'height': side}
    one |= {'image_id': image['id'], 'segmentation': []}
    content['annotations'] = [one | {'id': n} for n in range(1, 60)]
    require_same_faults(index_of(file, content), content)


def test_only_what_may_be_faulty_is_decoded(file, monkeypatch):
    content = sound()
    one = content['annotations'][0]
    content['annotations'] += [one | {'id': 10 + n} for n in range(500)]
    content['annotations'][300] |= {'area': 0}
    index = index_of(file, content)
    decoded = []
    read = type(index).annotations
    monkeypatch.setattr(
        type(index),
        'annotations',
        lambda self, at: decoded.extend(at) or read(self, at),
    )
    assert [
        fault.code for fault in check_content(suspect_content(index.content(), index))
    ] == ['zero-area']
    assert 300 in decoded
    assert len(decoded) < 10


def test_a_large_file_of_boxes_counts_them_all(file):
    content = sound()
    for one in content['annotations']:
        one['segmentation'] = []
    content['annotations'] += [
        content['annotations'][0] | {'id': 10 + n} for n in range(50)
    ]
    index = index_of(file, content)
    (fault,) = require_same_faults(index, content)
    assert (fault.code, fault.severity, fault.count) == (
        'missing-segmentation',
        'note',
        54,
    )


def test_the_hash_of_a_new_file_is_computed_until_its_time_tells(
    cache, old, monkeypatch
):
    monkeypatch.setattr(index_module, '_RESOLUTION_NS', 4 * 10**18)
    index = read_again(old)  # as if it had been written just now
    monkeypatch.setattr(index_module, '_RESOLUTION_NS', 0)
    real, hashed = index_module._sha256, []
    monkeypatch.setattr(
        index_module, '_sha256', lambda handle: (hashed.append(1), real(handle))[1]
    )
    os.utime(old, ns=(10**18 + 5, 10**18 + 5))
    again = [read_again(old) for _ in range(2)]
    assert hashed == [1]
    require_equal(again[1], index)
