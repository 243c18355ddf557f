"""A repaired copy has no fault that can be mended, and is otherwise the same."""

import copy
import json
import os

import pytest

from eca_mmdet.datasets import checking
from eca_mmdet.datasets.coco import completed
from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.rules.check import repair
from eca_mmdet.utils.errors import UserError
from tests.support.broken_data import (
    CASES,
    DELETE,
    IMAGES,
    case_id,
    check_annotations,
    sound,
    write_images,
)


def faults(content):
    return {f.code for f in check_annotations(content) if f.severity != 'note'}


def done(counter):
    return {told: count for told, count in counter.items() if count}


@pytest.mark.parametrize('case', CASES, ids=case_id)
def test_what_can_be_mended_is(case):
    broken = case.content()
    before = copy.deepcopy(broken)
    repaired, counts = repair(broken)
    assert repr(broken) == repr(before)  # the source is not changed; NaN differs
    assert faults(repaired) == case.left
    assert bool(done(counts)) == (not case.left)
    for key in ('info', 'licenses', 'tool'):
        assert repaired[key] == sound()[key]


def test_a_sound_file_stays_as_it_is():
    repaired, counts = repair(sound())
    assert repaired == sound() and done(counts) == {}


def broken(path, value):
    return next(
        case.content()
        for case in CASES
        if case.edits == {path: value}
        or (value is DELETE and case.edits == {path: DELETE})
    )


def changes(repaired):
    """The annotations that differ from the sound file, as {position: {key: value}}."""
    pairs = zip(sound()['annotations'], repaired['annotations'], strict=True)
    return {
        index: {key: new[key] for key in new if new[key] != old.get(key)}
        for index, (old, new) in enumerate(pairs)
        if new != old
    }


@pytest.mark.parametrize(
    ('path', 'value', 'expected'),
    [
        ('annotations.3.id', 0, {}),
        ('annotations.3.id', 1, {}),
        ('annotations.0.id', DELETE, {}),
        ('annotations.0.image_id', '10', {}),
        ('annotations.0.category_id', '1', {0: {'category_id': 1}}),
        ('annotations.0.iscrowd', DELETE, {}),
        ('annotations.0.area', DELETE, {}),
        ('annotations.0.area', 0, {}),
        ('annotations.0.bbox', DELETE, {}),
        ('annotations.0.bbox', [1, 2, 3], {}),
        ('annotations.0.bbox', [2, 3, 8, '6'], {}),
        ('annotations.0.bbox', [1, 2, 0, 4], {}),
        ('annotations.0.bbox', [1, 2, 3, -4], {}),
        ('annotations.0.bbox', [64, 2, 3, 4], {}),
        ('annotations.0.bbox', [2, 3, 0.5, 6], {}),
        ('annotations.0.bbox', [2 / 64, 3 / 48, 8 / 64, 6 / 48], {}),
        ('annotations.0.segmentation', [2, 3, 10, 3, 10, 9, 2, 9], {}),
        ('annotations.0.segmentation.append', [1, 2, 3, 4, 5, 6, 7], {}),
    ],
)
def test_the_repaired_value(path, value, expected):
    repaired, _ = repair(broken(path, value))
    assert changes(repaired) == expected
    assert {k: v for k, v in repaired.items() if k != 'annotations'} == {
        k: v for k, v in sound().items() if k != 'annotations'
    }


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('annotations.0.image_id', 11),
        ('annotations.0.category_id', 0),
        ('annotations.0.image_id', None),
        ('annotations.0.segmentation', [[90, 3, 99, 3, 99, 9]]),
        ('annotations.0.segmentation', [[1, 2, 3, 4]]),
        ('annotations.0.segmentation', {'counts': 'abc'}),
    ],
)
def test_what_is_dropped(path, value):
    repaired, counts = repair(broken(path, value))
    # The ids of the others stay: nothing is wrong with them.
    assert repaired['annotations'] == sound()['annotations'][1:]
    assert sum(count for told, count in counts.items() if 'dropped' in told) == 1


OUTLINE = [2, 3, 10, 3, 10, 9, 2, 9]
POINTS = [[2, 3], [10, 3], [10, 9], [2, 9]]
RUNS = [99, 6, *[42, 6] * 7, 2631]  # the outline on 64 x 48 px


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        *(
            ('bbox', box, [2, 3, 8, 6])
            for box in (
                ['2', '3.0', ' 8 px', '6e0'],
                [[2], [3], [8], [6]],
                [[2, 3, 8, 6]],
                [[2, 3], [10, 9]],
                POINTS,
                '[2, 3, 8, 6]',
                '2, 3, 8, 6',
                '(2 3 8 6)',
                'tensor([2., 3., 8., 6.])',
                'array([2, 3, 8, 6], dtype=int64)',
                '[np.float64(2.0), np.float64(3.0), np.float64(8.0), np.float64(6.0)]',
                {'x': 2, 'y': '3', 'w': 8, 'h': 6},
                {'left': 2, 'Top': 3, 'width': 8, 'height': 6},
                {'x_min': 2, 'y_min': 3, 'x_max': 10, 'y_max': 9},
                {'x0': 2, 'y0': 3, 'x1': 10, 'y1': 9},
                {'xtl': 2, 'ytl': 3, 'xbr': 10, 'ybr': 9},
                [10, 9, -8, -6],  # the opposite corner
                [2, 3, -8, -6],  # only the signs are wrong: it would be outside
                [2 / 64, 3 / 48, 8 / 64, 6 / 48],  # beside others in pixels
            )
        ),
        ('bbox', ['2,5', '3', '8', '6'], [2.5, 3, 8, 6]),
        *(
            ('segmentation', mask, [OUTLINE])
            for mask in (
                OUTLINE,
                POINTS,
                [POINTS],
                [[POINTS]],
                [[OUTLINE]],
                [[str(number) for number in OUTLINE]],
                [{'x': x, 'y': y} for x, y in POINTS],
                {'points': POINTS},
                {'polygon': POINTS},
                'POLYGON ((2 3, 10 3, 10 9, 2 9))',
                str(OUTLINE),
                str([POINTS]),
                [[v / (64, 48)[at % 2] for at, v in enumerate(OUTLINE)]],
                [[v / 64 for v in OUTLINE]],  # by the longer side
            )
        ),
        ('segmentation', [POINTS, [[3, 4], [9, 4], [9, 8]]], None),
        *(
            ('segmentation', rle, {'size': [48, 64], 'counts': RUNS})
            for rle in (
                {'size': ['48', '64'], 'counts': RUNS},
                {'size': [48, 64], 'counts': [*map(float, RUNS)]},
                {'size': [48, 64], 'counts': str(RUNS)},
                [{'size': [48, 64], 'counts': RUNS}],
            )
        ),
        (
            'segmentation',
            {'size': [48, 64], 'counts': str(rb'\33]10di2')},
            {'size': [48, 64], 'counts': r'\33]10di2'},
        ),
        ('category_id', 'dog', 2),
        ('image_id', 'é.png', 10),
        *(('iscrowd', flag, 1) for flag in ('1', 'True', ' yes ', '1.0', [1])),
        *(('iscrowd', flag, 0) for flag in ('0', 'false', 'NO', '', 2, 'maybe')),
        *(('ignore', flag, 0) for flag in ('0', 'False')),
        ('ignore', 'true', 1),
        *(('area', area, 47.5) for area in ('47.5', '47,5', [47.5])),
        ('area', '47,500', 48),  # which it is cannot be known: computed
    ],
)
def test_evident_values_are_read(key, value, expected):
    content = sound()
    content['annotations'][0][key] = value
    if key == 'bbox':
        content['annotations'][0]['segmentation'] = []  # nothing to compute it from
    repaired, counts = repair(content)
    first, *others = repaired['annotations']
    if expected is None:
        expected = [OUTLINE, [3, 4, 9, 4, 9, 8]]
    assert first[key] == expected
    if isinstance(expected, dict):
        assert repr(first[key]) == repr(expected)  # no floats
    assert others == sound()['annotations'][1:]
    assert not any('dropped' in told or 'removed' in told for told in done(counts))


@pytest.mark.parametrize(
    ('mask', 'expected'),
    [
        ([5, 40, 5, 50, 13, 50, 13, 40], [40, 5, 50, 5, 50, 13, 40, 13]),  # y, x
        ([0, 0, 10, 0, 10, 8, 0, 8], [40, 5, 50, 5, 50, 13, 40, 13]),  # of a crop
        ([0, 0, 30, 0, 30, 8, 0, 8], [0, 0, 30, 0, 30, 8, 0, 8]),  # of what?
    ],
)
def test_masks_are_placed_where_their_box_is(mask, expected):
    content = sound()
    content['annotations'][0].update(bbox=[40, 5, 10, 8], segmentation=[mask])
    assert faults(content) == {'mask-off-bbox'}
    repaired, _ = repair(content)
    assert repaired['annotations'][0]['segmentation'] == [expected]
    assert repaired['annotations'][1:] == sound()['annotations'][1:]


def test_boxes_of_two_corners_are_read_where_the_mask_or_the_area_tells():
    content = sound()
    first, second, third, _ = content['annotations']
    first.update(bbox=[40, 30, 60, 45], segmentation=[[40, 30, 60, 30, 60, 45, 40, 45]])
    second.update(bbox=[20, 20, 36, 32], area=192, segmentation=[])
    third.update(bbox=[30, 30, 50, 40], area=200, segmentation=[])  # really so
    third['bbox'] = [30, 30, 20, 10]
    repaired, counts = repair(content)
    boxes = [one['bbox'] for one in repaired['annotations']]
    assert boxes == [[40, 30, 20, 15], [20, 20, 16, 12], [30, 30, 10, 4], [2, 3, 8, 6]]
    assert done(counts)['boxes read as two corners'] == 2


PLACES = [(52, 3), (30, 30), (5, 28), (40, 10), (18, 20), (50, 25), (2, 2), (33, 1)]


def in_one_image(places=PLACES, masked=True):
    """Objects of 11 x 16 px in an image of 64 x 48."""
    content = sound()
    content['annotations'] = [
        {
            'id': number,
            'image_id': 10,
            'category_id': 1,
            'bbox': [x, y, 11, 16],
            'area': 176,
            'iscrowd': 0,
            'segmentation': masked * [[x, y, x + 11, y, x + 11, y + 16, x, y + 16]],
        }
        for number, (x, y) in enumerate(places, 1)
    ]
    return content


ORDERS = {
    'two corners': lambda x, y, w, h: [x, y, x + w, y + h],
    'centre and size': lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    'y before x': lambda x, y, w, h: [y, x, h, w],
    'two corners, y before x': lambda x, y, w, h: [y, x, y + h, x + w],
}


@pytest.mark.parametrize('area', ['of the object', 'of the numbers', 'missing'])
@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('order', ORDERS)
def test_boxes_of_a_file_in_another_order_are_not_clipped(order, masked, area):
    # Without masks, several boxes over the edge show it.
    places = [(52, 30), (50, 31), (53, 25), (51, 1), (49, 28), *PLACES]
    content = in_one_image(places, masked)
    for one in content['annotations']:
        one['bbox'] = ORDERS[order](*one['bbox'])
        one['area'] = one['bbox'][2] * one['bbox'][3]
        if area == 'of the object':
            one['area'] = 176
        elif area == 'missing':
            del one['area']
    assert faults(content) & {'bbox-over-edge', 'bbox-outside', 'mask-off-bbox'}
    repaired, counts = repair(content)
    boxes = [one['bbox'] for one in repaired['annotations']]
    assert boxes == [[x, y, 11, 16] for x, y in places]
    assert {one['area'] for one in repaired['annotations']} == {176}
    assert done(counts)[f'boxes read as {order}'] == len(places)
    for one, other in zip(repaired['annotations'], content['annotations'], strict=True):
        assert one['segmentation'] == other['segmentation']


def test_boxes_over_the_edge_are_clipped_where_no_order_fits_all():
    content = in_one_image([(60, 40), (60, 5), (58, 30), (57, 1), (59, 20)], False)
    content['annotations'] += in_one_image(masked=False)['annotations']
    boxes = [one['bbox'] for one in repair(content)[0]['annotations']]
    assert boxes[:2] == [[60, 40, 4, 8], [60, 5, 4, 16]]
    assert boxes[5:] == [[x, y, 11, 16] for x, y in PLACES]


@pytest.mark.filterwarnings('error')
def test_numbers_near_the_largest_float_are_no_order():
    content = in_one_image()
    content['annotations'][0]['bbox'] = [1e308, 0, 1e307, 5]
    boxes = [one['bbox'] for one in repair(content)[0]['annotations']]
    assert boxes == [[x, y, 11, 16] for x, y in PLACES]  # the first from its mask


def test_of_boxes_and_masks_that_disagree_in_their_axes_neither_is_trusted():
    content = in_one_image([(5, 28), (30, 20), (2, 25), (25, 8)])
    for one in content['annotations']:
        one['bbox'] = ORDERS['y before x'](*one['bbox'])
    assert faults(content) == {'mask-off-bbox'}
    repaired, counts = repair(content)
    assert repaired['annotations'] == content['annotations'] and not done(counts)


def test_masks_that_overlap_their_box_are_exchanged_as_the_others_are():
    content = in_one_image([(50, 5), (20, 20), (18, 21)])
    expected = copy.deepcopy(content['annotations'])
    for one in content['annotations']:
        (ring,) = one['segmentation']
        one['segmentation'] = [[ring[at ^ 1] for at in range(8)]]
    found = {fault.code: fault.count for fault in check_annotations(content)}
    assert found == {'mask-without-pixel': 1, 'class-without-objects': 1}
    content['annotations'][1]['segmentation'].append([1, 2, 3])  # no polygon
    repaired, counts = repair(content)
    assert repaired['annotations'] == expected
    told = {'masks with x and y exchanged': 3, 'short polygons removed': 1}
    assert done(counts) == told


def test_names_that_are_numbers_become_text():
    content = sound()
    content['categories'][0]['name'] = 7
    content['images'][0]['file_name'] = 12.5
    assert {'malformed-category', 'malformed-image'} <= faults(content)
    repaired, _ = repair(content)
    assert repaired['categories'] == [
        {**content['categories'][0], 'name': '7'},
        *sound()['categories'][1:],
    ]
    assert repaired['images'][0]['file_name'] == '12.5'
    assert repaired['annotations'] == sound()['annotations']


def test_a_box_is_not_clipped_to_less_than_mmdet_trains_on():
    content = sound()
    content['annotations'][0].update(bbox=[63.5, 3, 8, 6], segmentation=[])
    repaired, _ = repair(content)
    assert repaired['annotations'][0]['bbox'] == [63.5, 3, 8, 6]


def test_coordinates_of_a_whole_file_in_0_to_1():
    content = sound()
    sizes = {one['id']: (one['width'], one['height']) for one in content['images']}
    for one in content['annotations']:
        w, h = sizes[one['image_id']]
        one['bbox'] = [2 / w, 3 / h, 8 / w, 6 / h]
        one['segmentation'] = [[v / (w, h)[at % 2] for at, v in enumerate(OUTLINE)]]
        one['area'] = 48 / w / h
    found = {fault.code: fault for fault in check_annotations(content)}
    assert found['normalised-bbox'].count == 4
    assert found['nothing-to-train-on'].examples == ('4 x thin-bbox',)
    repaired, _ = repair(content)
    for one in repaired['annotations']:
        assert one['bbox'] == pytest.approx([2, 3, 8, 6], abs=1e-4)
        assert one['segmentation'][0] == pytest.approx(OUTLINE, abs=1e-4)
        assert one['area'] == pytest.approx(48)
    # Others of a file in pixels are scaled where no mask contradicts.
    mixed = sound()
    mixed['annotations'][0].update(content['annotations'][0], segmentation=[], area=1)
    assert faults(mixed) == {'normalised-bbox', 'missing-segmentation'}
    first = repair(mixed)[0]['annotations'][0]
    assert first['bbox'] == pytest.approx([2, 3, 8, 6], abs=1e-4)
    mixed['annotations'][0]['segmentation'] = [[30, 30, 40, 30, 40, 40, 30, 40]]
    assert repair(mixed)[0]['annotations'][0]['bbox'] == [30, 30, 10, 10]
    # Two corners or a centre in 0-1: which it is cannot be known.
    content['annotations'][0]['bbox'] = [0.9, 0.9, 0.95, 0.95]
    content['annotations'][0]['segmentation'] = []
    repaired, _ = repair(content)
    assert repaired['annotations'][0]['bbox'] == [0.9, 0.9, 0.95, 0.95]


@pytest.mark.parametrize(
    ('boxes', 'scaled'),
    [
        # Slightly outside: rounded by another tool.
        ([[-0.005, 0.5, 0.5, 0.505], [0.5, 0.25, 0.25, 0.25]], [[32, 12, 16, 12]]),
        # Only two corners fit.
        ([[0.1, 0.7, 0.9, 0.8], [0.5, 0.25, 0.75, 0.5]], [[32, 12, 16, 12]]),
        # Two corners or centres.
        ([[0.6, 0.6, 0.7, 0.7], [0.5, 0.5, 0.75, 0.75]], [[0.5, 0.5, 0.75, 0.75]]),
    ],
)
def test_boxes_alone_in_0_to_1(boxes, scaled):
    content = sound()
    content['annotations'] = content['annotations'][:2]
    for one, box in zip(content['annotations'], boxes, strict=True):
        one.update(bbox=box, segmentation=[], area=1, image_id=10)
    assert 'normalised-bbox' in faults(content)
    repaired, _ = repair(content)
    assert [one['bbox'] for one in repaired['annotations'][1:]] == scaled


@pytest.mark.parametrize(
    ('names', 'files', 'expected'),
    [
        (['images\\a.png'], ['a.png'], ['a.png']),
        (['..\\..\\media\\upload\\4\\a.png'], ['a.png'], ['a.png']),
        (['/data/upload/1/a.png'], ['sub/a.png'], ['sub/a.png']),
        (['../../label-studio/data/upload/1/a.png'], ['a.png'], ['a.png']),
        (['C:\\Users\\me\\a.png'], ['a.png'], ['a.png']),
        (['\\\\host\\share\\a.png'], ['a.png'], ['a.png']),
        (['http://host/data/a%20b.png'], ['a b.png'], ['a b.png']),
        (['https://host/data/a.png?key=b/c'], ['a.png'], ['a.png']),
        (['/data/local-files/?d=a.png'], ['a.png'], ['a.png']),
        (['A.PNG'], ['a.png'], ['a.png']),
        (['a.jpg'], ['a.png', 'a.txt'], ['a.png']),
        (['x\\one\\a.png'], ['one/a.png', 'two/a.png'], ['one/a.png']),
        (['x/a.png'], ['one/a.png', 'two/a.png'], ['x/a.png']),  # either
        (['x/a.png', 'y/a.png'], ['a.png'], ['x/a.png', 'y/a.png']),  # of which?
        (['a.png', 'x/a.png'], ['a.png'], ['a.png']),  # another's: it is not there
        (['../b/a.png'], ['c.png'], ['../b/a.png']),  # it may be there
    ],
)
def test_names_of_another_path(tmp_path, write, command, names, files, expected):
    folder = write_images(tmp_path / 'images')
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes((folder / 'b.jpg').read_bytes())
    content = sound()
    known = content['images'][0]
    content['images'] += [
        known | {'id': 70 + at, 'file_name': name, 'width': 40, 'height': 34}
        for at, name in enumerate(names)
    ]
    words = ('--images', folder, '--fix', tmp_path / 'f.json', '--force')
    code, text, _ = command('data', 'check', write(content), *words)
    assert code == 1 and ('missing-image' in text or 'file-name-outside' in text)
    fixed = json.loads((tmp_path / 'f.json').read_text())
    assert [one['file_name'] for one in fixed['images']] == [*IMAGES, *expected]
    if expected[0] not in names:
        assert f'there is {expected[0]!r}' in text and 'no fault' in text


def test_a_name_that_leaves_the_folder_is_not_opened(tmp_path, write, command):
    folder = write_images(tmp_path / 'images')
    (tmp_path / 'secret.png').write_bytes((folder / 'b.jpg').read_bytes()[:100])
    content = sound()
    for one, name in zip(
        content['images'], ('../secret.png', '/dev/zero'), strict=False
    ):
        one['file_name'] = name
    code, text, _ = command('data', 'check', write(content), '--images', folder)
    assert code == 1 and '2 x file-name-outside' in text
    assert 'damaged-image' not in text and 'image-size' not in text


def test_a_copy_without_much_of_the_source_takes_force(tmp_path, write, command):
    content = sound()
    content['annotations'][0].update(bbox=[70, 3, 8, 6], segmentation=[])
    file, out = write(content), tmp_path / 'f.json'
    code, text, _ = command('data', 'check', file, '--fix', out)
    assert code == 1 and not out.exists()
    assert f'{out}: not written' in text
    assert 'removed: 0 of 3 images, 1 of 4 objects, 0 of 3 masks; --force' in text
    _, text, _ = command('data', 'check', file, '--fix', out, '--json')
    fix = json.loads(text)['fix']
    assert fix['file'] is None and fix['removed']['objects'] == 1
    code, text, _ = command('data', 'check', file, '--fix', out, '--force')
    assert code == 1 and text.endswith('1 of 4 objects, 0 of 3 masks\n')
    assert len(json.loads(out.read_text())['annotations']) == 3


def test_a_tenth_may_go_without_force(tmp_path, write, command):
    content = sound()
    first = content['annotations'][0]
    content['annotations'] = [first | {'id': at} for at in range(1, 11)]
    content['annotations'][3]['bbox'] = [70, 3, 8, 6]
    content['annotations'][3]['segmentation'] = []
    words = ('data', 'check', write(content), '--fix', tmp_path / 'f.json')
    assert command(*words)[1].endswith('1 of 10 objects, 0 of 9 masks\n')


def test_boxes_stay_in_a_file_without_masks():
    content = sound()
    for one in content['annotations']:
        one['segmentation'] = []
    content['annotations'][0]['segmentation'] = [[1, 2, 3, 4]]
    content['annotations'][1].update(bbox=[60, 2, 6, 4], area=24, image_id=10)
    repaired, _ = repair(content)
    assert len(repaired['annotations']) == 4
    assert repaired['annotations'][0]['segmentation'] == []
    # Without a mask the area was the box's, and follows it.
    assert repaired['annotations'][1]['area'] == 16


def test_area_of_an_rle_and_of_a_box():
    content = sound()
    rle = {'size': [48, 64], 'counts': [10, 9, 3053]}
    content['annotations'][0].update(segmentation=rle, area=None)
    content['annotations'][1].update(segmentation=[], area=-1, bbox=[1, 1, 5, 4])
    repaired, _ = repair(content)
    assert [one['area'] for one in repaired['annotations'][:2]] == [9, 20]


def test_an_rle_that_does_not_fill_its_image_is_removed():
    """The check finds it, so the repair must; pycocotools may crash on it."""
    content = sound()
    rle = {'size': [48, 64], 'counts': 'abc'}
    content['annotations'][0].update(segmentation=rle, area=None)
    assert faults(content) == {'malformed-segmentation', 'missing-area'}
    repaired, counts = repair(content)
    assert repaired['annotations'] == sound()['annotations'][1:]
    assert done(counts) == {
        'malformed segmentations removed': 1,
        'annotations that lost their mask dropped': 1,
    }


def test_merged_categories_take_their_annotations_along():
    content = sound()
    content['categories'].append({'id': 3, 'name': 'dog'})
    content['annotations'][0]['category_id'] = 3
    repaired, counts = repair(content)
    assert repaired['categories'] == sound()['categories']
    assert repaired['annotations'][0]['category_id'] == 2
    assert done(counts)['annotations given the category they were merged into'] == 1


def test_references_follow_renumbered_ids():
    content = sound()
    content['images'][0]['id'] = 'a'  # text among numbers
    content['annotations'][0]['image_id'] = 'a'
    content['annotations'][1]['image_id'] = 2  # no image now, but 2 will be one
    repaired, _ = repair(content)
    assert [one['id'] for one in repaired['images']] == [1, 2, 3]
    files = {one['id']: one['file_name'] for one in repaired['images']}
    assert [files[one['image_id']] for one in repaired['annotations']] == [
        'é.png',
        'b.jpg',
        'sub/c.png',
    ]


def test_text_ids_of_images_stay():
    content = sound()
    for one in content['images']:
        one['id'] = f'{one["id"]:04}'
    for one in content['annotations']:
        one['image_id'] = f'{one["image_id"]:04}'
    assert repair(content)[0] == content


def test_images_that_are_gone_take_their_annotations_along():
    files = ImageFiles({'b.jpg': ''}, {'sub/c.png': 'cut off'}, {'é.png': (80, 60)})
    repaired, counts = repair(sound(), files)
    assert [one['file_name'] for one in repaired['images']] == ['é.png']
    assert repaired['images'][0] | {'width': 64, 'height': 48} == sound()['images'][0]
    assert (repaired['images'][0]['width'], repaired['images'][0]['height']) == (80, 60)
    assert [one['id'] for one in repaired['annotations']] == [1]
    assert done(counts) == {
        'images without a usable file dropped': 2,
        'image sizes corrected': 1,
        'annotations of dropped images dropped': 3,
    }


# --- the command


def test_fix_writes_a_copy_and_checks_it(write, tmp_path, command):
    content = sound()
    content['annotations'][3]['id'] = 0
    del content['annotations'][1]['iscrowd']
    file, out = write(content), tmp_path / 'fixed.json'
    before = file.read_bytes()
    code, text, _ = command('data', 'check', file, '--fix', out)
    assert code == 1  # the source has faults
    assert file.read_bytes() == before
    assert json.loads(out.read_text()) == completed(sound())
    assert '  1 iscrowd set to 0' in text
    assert '  4 annotation ids renumbered from 1' in text
    removed = 'removed: 0 of 3 images, 0 of 4 objects, 0 of 4 masks\n'
    assert text.endswith(f'checked again: no fault\n{removed}')
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert command('data', 'check', out)[0] == 0


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def test_what_is_left_is_said(write, tmp_path, command):
    content = sound()
    content['categories'].append({'id': 3, 'name': 'Dog'})
    content['annotations'][0]['area'] = None
    file = write(content)
    _, text, _ = command('data', 'check', file, '--fix', tmp_path / 'f.json')
    assert 'still there, for you to decide:\n  warning: 2 x similar-category' in text
    _, text, _ = command('data', 'check', file, '--fix', tmp_path / 'g.json', '--json')
    fix = json.loads(text)['fix']
    assert fix['repaired'] == {'areas computed': 1}
    assert [one['code'] for one in fix['faults']] == [
        'similar-category-names',
        'class-without-objects',
    ]


def test_fix_with_images(write, tmp_path, command):
    folder = write_images(tmp_path / 'images')
    (folder / 'b.jpg').write_bytes((folder / 'b.jpg').read_bytes()[:300])
    content = sound()
    content['images'][0]['width'] = None
    content['images'][2]['height'] = 99
    out = tmp_path / 'fixed.json'
    code, text, _ = command(
        'data', 'check', write(content), '--images', folder, '--fix', out, '--force'
    )
    assert code == 1 and 'checked again: no fault\n' in text
    assert text.endswith('removed: 1 of 3 images, 2 of 4 objects, 2 of 4 masks\n')
    images = json.loads(out.read_text())['images']
    assert images == [sound()['images'][0], sound()['images'][2]]
    assert set(IMAGES) - {one['file_name'] for one in images} == {'b.jpg'}


@pytest.mark.parametrize('name', ['ann.json', 'link.json', 'there.json', 'dangling'])
def test_nothing_is_overwritten(write, tmp_path, command, name):
    file = write(sound())
    (tmp_path / 'there.json').write_text('mine')
    (tmp_path / 'link.json').symlink_to(file)
    (tmp_path / 'dangling').symlink_to(tmp_path / 'nowhere')
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    code, out, err = command('data', 'check', file, '--fix', tmp_path / name)
    assert (code, out) == (2, '') and '[output-exists]' in err
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_a_folder_that_is_not_there(write, tmp_path, command):
    code, _, err = command(
        'data', 'check', write(sound()), '--fix', tmp_path / 'no/f.json'
    )
    assert code == 2 and '[file-not-written]' in err
    assert not (tmp_path / 'no').exists()


def test_a_write_that_fails_leaves_nothing(write, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    file = write(sound())
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(UserError, match='No space left') as error:
        checking.check_annotations(file, fix=tmp_path / 'f.json')
    assert error.value.code == 'file-not-written'
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_of_which_nothing_is_left(write, tmp_path, command):
    content = sound()
    content['images'] = [{'id': 1}]
    code, _, err = command(
        'data', 'check', write(content), '--fix', tmp_path / 'f.json'
    )
    assert code == 2 and "nothing is left of 'images'" in err and '[no-images]' in err
    assert not (tmp_path / 'f.json').exists()


def test_the_mark_at_the_start_is_removed(tmp_path, command):
    file, out = tmp_path / 'bom.json', tmp_path / 'f.json'
    file.write_text(json.dumps(sound()), encoding='utf-8-sig')
    code, text, _ = command('data', 'check', file, '--fix', out)
    assert code == 1 and '  1 file written as UTF-8' in text
    assert json.loads(out.read_text('ascii')) == completed(sound())
