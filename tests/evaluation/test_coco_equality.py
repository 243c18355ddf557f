"""Both backends give pycocotools' numbers, to the last bit, whatever the file."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eca_mmdet
from eca_mmdet.datasets.detections import detections_of
from eca_mmdet.datasets.ground_truth import ground_truth, read_ground_truth
from eca_mmdet.datasets.masks import bad_counts, count_pixels, mask_api
from eca_mmdet.evaluation import coco_eval as backends
from eca_mmdet.evaluation.coco_eval import columns
from eca_mmdet.utils.errors import UserError
from tests.references.coco import (
    EDGE_AREAS,
    box_mask,
    compressed,
    polygon,
    pycocotools_curves,
    random_case,
    rle,
    uncompressed,
)

TASKS = ('bbox', 'segm')


def curves(content, results, task, backend, max_dets=(1, 10, 100)):
    truth = ground_truth(copy.deepcopy(content))
    found = detections_of(copy.deepcopy(results), truth, tasks=[task])[task]
    run = getattr(backends, f'_run_{backend}')
    return run(truth, found, task, max_dets)


def numbers(content, results, task='bbox', **kwargs):
    """The metrics of both backends, which must be equal; those of hotcoco."""
    truth = ground_truth(copy.deepcopy(content))
    found = detections_of(copy.deepcopy(results), truth, tasks=[task])[task]
    first, second = (
        backends.evaluate(truth, found, task, backend=name, **kwargs)
        for name in backends.BACKENDS
    )
    assert first == second
    return first.metrics


def assert_equal_to_pycocotools(content, results, task, max_dets=(1, 10, 100)):
    precision, recall, stats = pycocotools_curves(content, results, task, max_dets)
    for backend in backends.BACKENDS:
        found = curves(content, results, task, backend, max_dets)
        np.testing.assert_array_equal(found[0], precision, backend)
        np.testing.assert_array_equal(found[1], recall, backend)
    if stats is not None:
        metrics = numbers(content, results, task)
        ours = [-1 if v is None else v for v in metrics.values()]
        assert list(metrics) == list(columns())
        assert ours == stats


def with_arrays(value):
    """The same with what programs have in memory: arrays, tuples, NumPy's numbers."""
    if isinstance(value, dict):
        return {key: with_arrays(item) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], (int, float)):
        return tuple(value) if len(value) == 4 else np.array(value)
    if isinstance(value, list):
        return list(map(with_arrays, value))
    return np.asarray(value)[()] if isinstance(value, (int, float)) else value


def predictions(content, results):
    """The results as the predictions of a detector, by image id."""
    names = [one['name'] for one in content['categories']]
    labels = {one['id']: at for at, one in enumerate(content['categories'])}
    found = {}
    for image in content['images']:
        entries = [one for one in results if one['image_id'] == image['id']]
        boxes = np.array([one['bbox'] for one in entries], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [mask_api().decode(one['segmentation']) for one in entries]
        size = (image['height'], image['width'])
        found[image['id']] = eca_mmdet.Prediction(
            boxes=boxes,
            scores=np.array([one['score'] for one in entries], np.float32),
            labels=np.array([labels[one['category_id']] for one in entries], int),
            masks=np.array(masks, bool).reshape(-1, *size),
            classes=tuple(names),
        )
    return found


@pytest.mark.parametrize('seed', [3, 8, 21])
def test_content_and_predictions_give_pycocotools_numbers(seed):
    content, results = random_case(seed)
    assert len(content['images']) > 1 and results
    found = predictions(content, results)
    ids = [one['id'] for one in content['categories']]
    entries = [e for at, one in found.items() for e in one.to_coco(at, ids)]
    before = copy.deepcopy((content, entries))
    for annotations, results in (
        (content, entries),
        (with_arrays(content), with_arrays(entries)),
        (content, found),
    ):
        report = eca_mmdet.evaluate(annotations, results)
        assert not report.notes
        assert report.files[0].results.keys() == set(TASKS)
        for task, result in report.files[0].results.items():
            _, _, stats = pycocotools_curves(content, entries, task, (1, 10, 100))
            ours = [-1 if v is None else v for v in result.metrics.values()]
            assert ours == stats
    assert before == (content, entries)


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_random_data(task, seed):
    content, results = random_case(seed)
    max_dets = (1, 10, 100) if seed % 3 else (2, 5)
    assert_equal_to_pycocotools(content, results, task, max_dets)


def one_object(box=(10, 10, 20, 30), area=None, size=(100, 120), **more):
    height, width = size
    x, y, w, h = box
    corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
    return {
        'images': [{'id': 7, 'height': height, 'width': width}],
        'categories': [{'id': 3, 'name': 'cat'}],
        'annotations': [
            {
                'id': 1,
                'image_id': 7,
                'category_id': 3,
                'bbox': list(box),
                'area': w * h if area is None else area,
                'iscrowd': 0,
                'segmentation': polygon(*corners),
                **more,
            }
        ],
    }


def perfect(content, score=0.5):
    """Detections equal to the objects."""
    sizes = {one['id']: (one['height'], one['width']) for one in content['images']}
    return [
        {
            'image_id': one['image_id'],
            'category_id': one['category_id'],
            'bbox': list(one['bbox']),
            'score': score,
            'segmentation': compressed(one['segmentation'], *sizes[one['image_id']]),
        }
        for one in content['annotations']
    ]


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('area', EDGE_AREAS)
def test_objects_at_the_limits_of_small_medium_and_large(task, area):
    """COCO counts an object of exactly 1024 as small and medium both."""
    content = one_object(area=area)
    metrics = numbers(content, perfect(content), task)
    assert_equal_to_pycocotools(content, perfect(content), task)
    ranges = {'S': area <= 1024, 'M': 1024 <= area <= 9216, 'L': area >= 9216}
    for name, inside in ranges.items():
        expected = pytest.approx(1) if inside else None
        assert metrics[f'AP{name}'] == expected, name
        assert metrics[f'AR{name}'] == expected, name


@pytest.mark.parametrize('task', TASKS)
def test_detections_at_the_limits_of_small_and_medium(task):
    """An unmatched detection of exactly 32 x 32 is small and medium both."""
    content = one_object((0, 0, 32, 32), size=(100, 200))
    other = one_object((60, 0, 32, 32), size=(100, 200))
    results = perfect(other, 0.9) + perfect(content, 0.5)
    assert_equal_to_pycocotools(content, results, task)
    metrics = numbers(content, results, task)
    assert metrics['APS'] == pytest.approx(0.5)
    assert metrics['APM'] == pytest.approx(0.5)


@pytest.mark.parametrize('task', TASKS)
def test_mask_areas_decide_the_size_of_masks(task):
    """A wrong mask of 30 pixels in a large box: small for masks, large for boxes."""
    content = one_object((0, 0, 20, 20), size=(200, 200))
    mask = np.zeros((200, 200))
    mask[100, 100:115] = mask[199, 185:] = 1
    wrong = {
        'image_id': 7,
        'category_id': 3,
        'bbox': [100, 100, 100, 100],
        'score': 0.9,
        'segmentation': rle(mask),
    }
    results = [wrong, *perfect(content)]
    assert_equal_to_pycocotools(content, results, task)
    small = numbers(content, results, task)['APS']
    assert small == pytest.approx(0.5 if task == 'segm' else 1)


@pytest.mark.parametrize('task', TASKS)
def test_no_detections_at_all(task):
    content = one_object()
    assert_equal_to_pycocotools(content, [], task)
    metrics = numbers(content, [], task)
    assert metrics['AP'] == metrics['AR100'] == 0 and metrics['APL'] is None


@pytest.mark.parametrize('task', TASKS)
def test_no_objects_at_all(task):
    content = {**one_object(), 'annotations': []}
    results = perfect(one_object())
    assert_equal_to_pycocotools(content, results, task)
    assert set(numbers(content, results, task).values()) == {None}


def several(results, side=10):
    """Ten objects, and detections of some as (object or None, score)."""
    content = one_object((0, 0, side, side), size=(20, 400))
    [first] = content['annotations']
    content['annotations'] = [
        {**first, 'id': n + 1, 'bbox': [30 * n, 0, side, side]} for n in range(10)
    ]
    found = [
        {
            'image_id': 7,
            'category_id': 3,
            'bbox': [350, 5, 9, 9] if at is None else [30 * at, 0, side, side],
            'score': score,
        }
        for at, score in results
    ]
    return content, found


@pytest.mark.parametrize('hits', range(11))
def test_recall_of_tenths(hits):
    """Among the 101 recalls is 0.7000000000000001, which 7 / 10 does not reach."""
    content, results = several([(at, 0.9 - at / 100) for at in range(hits)])
    assert_equal_to_pycocotools(content, results, 'bbox')
    precision, recall = curves(content, results, 'bbox', 'hotcoco')
    assert recall[0, 0, 0, -1] == hits / 10
    reached = int((precision[0, :, 0, 0, -1] > 0).sum())
    assert reached == (0 if not hits else 10 * hits + (hits != 7))


@pytest.mark.parametrize('digits', [0, 1, 2])
@pytest.mark.parametrize('seed', range(5))
def test_rounded_scores_tie_in_the_order_of_the_file(digits, seed):
    draw = np.random.default_rng(seed)
    scores = draw.random(60).round(digits).tolist()
    objects = [None if at > 9 else at for at in draw.integers(0, 20, 60).tolist()]
    content, results = several(list(zip(objects, scores, strict=True)))
    assert len(set(scores)) < 60
    assert_equal_to_pycocotools(content, results, 'bbox')


def test_image_without_objects_counts_its_false_positives():
    content = one_object()
    content['images'].append({'id': 8, 'height': 100, 'width': 120})
    wrong = {**perfect(content)[0], 'image_id': 8, 'score': 0.9}
    assert_equal_to_pycocotools(content, [wrong, *perfect(content)], 'bbox')
    assert numbers(content, [wrong, *perfect(content)])['AP'] == pytest.approx(0.5)


@pytest.mark.parametrize('task', TASKS)
def test_crowd_swallows_detections(task):
    content = one_object((0, 0, 100, 100), size=(200, 200))
    content['annotations'][0].update(
        iscrowd=1, segmentation=uncompressed(box_mask((0, 0, 100, 100), 200, 200))
    )
    inside = perfect(one_object((10, 10, 20, 20), size=(200, 200)), 0.9)
    object_ = one_object((120, 120, 40, 40), size=(200, 200))
    object_['annotations'][0]['id'] = 2
    content['annotations'] += object_['annotations']
    results = inside * 3 + perfect(object_, 0.1)
    assert_equal_to_pycocotools(content, results, task)
    assert numbers(content, results, task)['AP'] == pytest.approx(1)


@pytest.mark.parametrize('extra', [98, 99, 100, 150])
def test_more_than_100_detections(extra):
    """The perfect one has the lowest score: from 100 others on it does not count."""
    content = one_object()
    wrong = perfect(one_object((60, 60, 20, 20)), 0.9)[0]
    results = perfect(content, 0.1) + [wrong] * extra
    assert_equal_to_pycocotools(content, results, 'bbox')
    assert numbers(content, results)['AR100'] == (1 if extra < 100 else 0)
    assert numbers(content, results, max_dets=(1, 200))['AR200'] == pytest.approx(1)


@pytest.mark.parametrize('first', ['right', 'wrong'])
def test_equal_scores_keep_the_order_of_the_file(first):
    content = one_object()
    results = perfect(content) + perfect(one_object((60, 60, 20, 20)))
    if first == 'wrong':
        results.reverse()
    assert_equal_to_pycocotools(content, results, 'bbox')
    expected = 1 if first == 'right' else 0.5
    assert numbers(content, results)['AP'] == pytest.approx(expected)


def many_classes(ids):
    content = one_object()
    content['categories'] = [{'id': i, 'name': f'class {i}'} for i in ids]
    [template] = content['annotations']
    content['annotations'] = [
        {**template, 'id': index, 'category_id': i, 'bbox': [10 * index, 5, 9, 20]}
        for index, i in enumerate(ids, 1)
    ]
    return content


@pytest.mark.parametrize('ids', [(1, 2, 3), (90, 3, 17), (17, 90, 3), (0, 5)])
def test_class_rows_have_the_right_id_and_name(ids):
    """Only one class is found; whatever the order of the file, it is that one."""
    content = many_classes(ids)
    results = [one for one in perfect(content) if one['category_id'] == ids[0]]
    truth = ground_truth(content)
    found = detections_of(results, truth)['bbox']
    for backend in backends.BACKENDS:
        result = backends.evaluate(truth, found, 'bbox', backend=backend)
        assert [one.id for one in result.classes] == sorted(ids)
        for one in result.classes:
            assert one.name == f'class {one.id}' and one.objects == 1
            assert one.metrics['AP'] == pytest.approx(1 if one.id == ids[0] else 0)
        assert result.metrics['AP'] == pytest.approx(1 / len(ids))


def test_class_rows_are_the_means_of_their_part_of_the_curves():
    content, results = random_case(4)
    assert len(content['categories']) > 2
    truth = ground_truth(content)
    found = detections_of(results, truth, tasks=['bbox'])['bbox']
    result = backends.evaluate(truth, found, 'bbox')
    for one in result.classes:
        only = {**content, 'categories': [{'id': one.id, 'name': one.name}]}
        only['annotations'] = [
            a for a in content['annotations'] if a['category_id'] == one.id
        ]
        mine = [r for r in results if r['category_id'] == one.id]
        assert numbers(only, mine) == one.metrics


@pytest.mark.parametrize('task', TASKS)
def test_annotation_id_0_counts(task):
    """pycocotools itself gives 0 here: cocoapi#507."""
    content = one_object(id=0)
    _, _, stats = pycocotools_curves(content, perfect(content), task)
    assert stats[0] == 0
    assert numbers(content, perfect(content), task)['AP'] == pytest.approx(1)


def test_annotation_ids_that_repeat_or_are_missing_count():
    content = many_classes((1, 2, 3))
    for one in content['annotations']:
        one['id'] = 5
    assert numbers(content, perfect(content))['AP'] == pytest.approx(1)
    for one in content['annotations']:
        del one['id']
    assert numbers(content, perfect(content))['AP'] == pytest.approx(1)


@pytest.mark.parametrize('task', TASKS)
def test_missing_entries_are_filled_in(task):
    whole = one_object()
    assert set(whole) == {'images', 'categories', 'annotations'}  # no info, no licenses
    bare = copy.deepcopy(whole)
    for key in ('area', 'iscrowd'):
        del bare['annotations'][0][key]
    results = perfect(whole)
    assert numbers(bare, results, task) == numbers(whole, results, task)


def test_missing_area_is_the_masks_then_the_boxes():
    content = one_object((0, 0, 100, 100), size=(200, 200))
    [annotation] = content['annotations']
    annotation['segmentation'] = polygon((0, 0), (100, 0), (0, 20))  # 1000 of 10,000
    del annotation['area']
    truth = ground_truth(content)
    assert truth.areas[0] == pytest.approx(1000, rel=0.05)
    annotation['segmentation'] = []
    assert ground_truth(content).areas.tolist() == [10000]
    annotation.update(bbox=None, segmentation=rle(box_mask((3, 4, 5, 6), 200, 200)))
    filled = ground_truth(content)
    assert filled.boxes.tolist() == [[3, 4, 5, 6]] and filled.areas.tolist() == [30]


@pytest.mark.parametrize('kind', [float, str])
def test_ids_of_another_type(kind):
    content = many_classes((90, 3, 17))
    expected = numbers(content, perfect(content)[:2])
    other = json.loads(json.dumps(content))
    other['images'][0]['id'] = kind(7)
    for category in other['categories']:
        category['id'] = kind(category['id'])
    for one in other['annotations']:
        one['category_id'], one['image_id'] = kind(one['category_id']), kind(7)
    assert numbers(other, perfect(other)[:2]) == expected
    if kind is float:  # the two writings of one number are one id
        assert numbers(other, perfect(content)[:2]) == expected


@pytest.mark.parametrize(
    'kind',
    ['polygon', 'two polygons', 'rle', 'counts', 'bytes'],
)
def test_every_kind_of_mask(kind):
    content = one_object()
    mask = box_mask((10, 10, 20, 30), 100, 120)
    halves = [
        *polygon((10, 10), (20, 10), (20, 40), (10, 40)),
        *polygon((20, 10), (30, 10), (30, 40), (20, 40)),
    ]
    compact = rle(mask)
    content['annotations'][0]['segmentation'] = {
        'polygon': content['annotations'][0]['segmentation'],
        'two polygons': halves,
        'rle': compact,
        'counts': uncompressed(mask),
        'bytes': {**compact, 'counts': compact['counts'].encode()},
    }[kind]
    result = {**perfect(one_object())[0], 'segmentation': rle(mask)}
    assert_equal_to_pycocotools(content, [result], 'segm')
    assert numbers(content, [result], 'segm')['AP'] == pytest.approx(1)


def test_boxes_outside_of_the_image():
    content = one_object((-30, -10, 60, 50))
    assert_equal_to_pycocotools(content, perfect(content), 'bbox')
    assert numbers(content, perfect(content))['AP'] == pytest.approx(1)
    far = one_object((500, 500, 60, 50))
    assert numbers(content, perfect(far))['AP'] == 0


def test_max_dets_name_the_columns_and_limit_ap():
    content = one_object()
    wrong = perfect(one_object((60, 60, 20, 20)), 0.9)
    metrics = numbers(content, wrong + perfect(content), max_dets=(1,))
    assert list(metrics) == [*columns()[:6], 'AR1', 'ARS', 'ARM', 'ARL']
    assert metrics['AP'] == metrics['AR1'] == 0


@pytest.mark.parametrize(
    'limits', [(), (0, 1), (10, 1), (1, 1), (1.5,), ('1',), 100, (True, 10), None]
)
def test_impossible_max_dets(limits):
    with pytest.raises(ValueError, match='ascending whole numbers'):
        backends.check_max_dets(limits)


@pytest.mark.parametrize(
    ('segmentation', 'reason'),
    [
        ([], 'has no segmentation'),
        ([[1, 1, 5, 5]], 'fewer than 3 points'),
        ([[1, 1, 5, 5, 9, 1], [1, 1]], 'fewer than 3 points'),
        (rle(np.ones((5, 5))), 'RLE of another size than its image'),
        ({'size': [100, 120]}, 'a size of two whole numbers and counts'),
        ('mask', 'neither polygons .* nor an RLE'),
        (
            [[1, 1, float('nan'), 5, 9, 1]],
            'neither polygons as lists of finite numbers',
        ),
        ([[1, 1, '5', 5, 9, 1]], 'neither polygons as lists of finite numbers'),
        ({'size': [100, 120], 'counts': [5, 99999]}, 'counts that fill it'),
        ({'size': [100, 120], 'counts': [-5, 12005]}, 'counts that fill it'),
        ({'size': 5, 'counts': 'a'}, 'a size of two whole numbers'),
        ({'size': [0, 120], 'counts': ''}, 'a size of two whole numbers'),
        ({'size': [100, 120], 'counts': 7}, 'a size of two whole numbers'),
        ({'size': [100, 120], 'counts': 'junk~~'}, 'counts that fill it'),
        ({'size': [100, 120], 'counts': ''}, 'counts that fill it'),
        ({'size': [100, 120], 'counts': b'0'}, 'counts that fill it'),
    ],
)
def test_masks_that_cannot_be_compared_are_named(segmentation, reason):
    content = one_object(segmentation=segmentation)
    truth = ground_truth(content)
    found = detections_of(perfect(one_object()), truth, tasks=['segm'])['segm']
    with pytest.raises(UserError, match=f'1 of 1 annotations .* image 7, .*{reason}'):
        backends.evaluate(truth, found, 'segm')


def test_polygons_need_the_size_of_their_image():
    content = one_object()
    del content['images'][0]['height']
    truth = ground_truth(content)
    found = detections_of(perfect(one_object()), truth, tasks=['segm'])['segm']
    with pytest.raises(UserError, match='without width and height'):
        backends.evaluate(truth, found, 'segm')


def test_file_without_annotations_is_refused():
    content = one_object()
    del content['annotations']
    truth = ground_truth(content, 'image_info_test-dev2017.json')
    found = detections_of([], truth)['bbox']
    with pytest.raises(UserError, match='test-dev2017.json has no annota.*--format'):
        backends.evaluate(truth, found, 'bbox')


def test_objects_on_unknown_images_and_classes_are_told_and_left_out():
    content = many_classes((1, 2, 3))
    content['annotations'][1]['image_id'] = 99
    content['annotations'][2]['category_id'] = 44
    truth = ground_truth(content, 'A.json')
    assert len(truth.image) == 1
    assert truth.notes == (
        '1 annotations of A.json do not count: their image ids are not in the file '
        '(99)',
        '1 annotations of A.json do not count: their category ids are not in the file '
        '(44)',
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bbox': [1, 2, 3]}, r'number 0: bbox \[1, 2, 3\] is not four finite numbers'),
        ({'bbox': '5566'}, 'not four finite numbers'),
        ({'bbox': [True] * 4}, 'not four finite numbers'),
        ({'bbox': [10**400] * 4}, 'not four finite numbers'),
        ({'iscrowd': '0'}, "iscrowd '0' is neither 0 nor 1"),
        ({'iscrowd': 2}, 'iscrowd 2 is neither 0 nor 1'),
        ({'bbox': [1, 2, float('nan'), 4]}, 'not four finite numbers'),
        ({'bbox': None, 'segmentation': None}, 'neither bbox nor a usable'),
        ({'image_id': 1.5}, '1.5 is no id'),
        ({'category_id': None}, 'None is no id'),
        ({'area': 'big'}, "area 'big' is not a finite number"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(change, message):
    content = one_object(**change)
    with pytest.raises(UserError, match=f'1 of 1 annotations cannot be.*{message}'):
        ground_truth(content)


NAMED = {'categories': [{'id': 1, 'name': 'one'}]}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([], "non-empty list 'images'"),
        ({'images': [{'id': 1}]}, "non-empty list 'categories'"),
        ({'shapes': [], 'version': 1}, "non-empty list 'images'"),
        ({**NAMED, 'images': [{'file': 1}]}, "'images' must be objects with an id"),
        ({**NAMED, 'images': [{'id': 1}, {'id': 'a'}]}, 'image ids must be'),
        ({**NAMED, 'images': [{'id': 1.5}]}, 'image ids must be'),
        ({**NAMED, 'images': [{'id': 1, 'height': 'x'}]}, 'must be whole numbers'),
        ({**NAMED, 'images': [{'id': 1, 'width': -4}]}, 'must be whole numbers'),
        ({**NAMED, 'images': [{'id': 1, 'width': 4.5}]}, 'must be whole'),
        ({**NAMED, 'images': [{'id': 1, 'width': 10**400}]}, 'must be whole'),
        ({**NAMED, 'images': [{'id': 1}], 'annotations': {}}, 'must be a list'),
    ],
)
def test_files_of_another_kind(content, message, tmp_path):
    path = tmp_path / 'A.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_ground_truth(path)


def test_whole_limits_of_any_type():
    assert backends.check_max_dets(np.array([1, 10])) == (1, 10)


def test_repeated_ids_of_images_and_categories_are_told():
    content = many_classes((1, 2))
    content['images'].append(dict(content['images'][0]))
    content['categories'].append({'id': 1, 'name': 'last'})
    truth = ground_truth(content, 'A.json')
    assert truth.category_names == ('last', 'class 2')
    assert truth.notes == (
        '1 image entries of A.json repeat an id; the last one counts',
        '1 category entries of A.json repeat an id; the last one counts',
    )


def test_names_that_cannot_be_written_are_replaced():
    content = one_object()
    content['categories'][0]['name'] = 'a\ud800b'
    assert ground_truth(content).category_names == ('a?b',)
    assert numbers(content, perfect(content))['AP'] == pytest.approx(1)


def plain_counts(mask):
    """cocoapi's compressed counts, one character after the other."""
    counts, at = [], 0
    text = mask['counts']
    while at < len(text):
        value, place, more = 0, 0, True
        while more:
            if at == len(text):
                return None
            code = ord(text[at]) - 48
            if not 0 <= code <= 63:
                return None
            value |= (code & 31) << (5 * place)
            more, at, place = bool(code & 32), at + 1, place + 1
            if not more and code & 16:
                value |= -1 << (5 * place)
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def test_counts_of_rles_are_decoded_as_cocoapi_does():
    draw = np.random.RandomState(0)
    masks = []
    for index in range(1500):
        size = draw.randint(1, 50, 2)
        mask = rle(draw.rand(*size) < draw.choice([0, 0.01, 0.4, 1]))
        text = list(mask['counts'])
        at = draw.randint(len(text))
        if index % 4 == 1:
            text[at] = chr(draw.randint(40, 120))
        elif index % 4 == 2:
            text = text[:at]
        elif index % 4 == 3:
            text.insert(at, chr(draw.randint(48, 112)))
        masks.append({**mask, 'counts': ''.join(text)})
    expected = []
    for mask in masks:
        counts = plain_counts(mask)
        full = counts and min(counts) >= 0
        expected.append(not full or sum(counts) != np.prod(mask['size']))
    assert bad_counts(masks).tolist() == expected
    sound = [mask for mask, bad in zip(masks, expected, strict=True) if not bad]
    inside = count_pixels([mask['counts'] for mask in sound])[1]
    assert inside.tolist() == [mask_api().area(mask) for mask in sound]
    assert 300 < sum(expected) < 1200 and not any(expected[::4])
    large = rle(draw.rand(2000, 3000) < 0.001)
    assert bad_counts([large] * 3).tolist() == [False] * 3
    assert bad_counts([]).tolist() == []
