"""Result files: what is read, and what is refused with the first offenders."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from eca_mmdet.datasets.detections import (
    Detections,
    detections_of,
    read_results,
    submission_path,
    top_of_each_image,
    write_results,
    write_submission,
)
from eca_mmdet.datasets.ground_truth import (
    ground_truth,
    read_ground_truth,
)
from eca_mmdet.datasets.masks import Rles
from eca_mmdet.utils.errors import UserError
from tests.references.coco import (
    box_mask,
    random_case,
    rle,
)

TRUTH = ground_truth(
    {
        'images': [{'id': 5, 'height': 40, 'width': 50}, {'id': 2}],
        'categories': [{'id': 9, 'name': 'cat'}, {'id': 4, 'name': 'dog'}],
        'annotations': [],
    },
    'A.json',
)
GOOD = {'image_id': 5, 'category_id': 9, 'bbox': [1, 2, 3, 4], 'score': 0.5}
POLYGON = [[1, 2, 4, 2, 4, 6, 1, 6]]
MASK = rle(box_mask((1, 2, 3, 4), 40, 50))


def read(*entries, tasks=None):
    return detections_of(list(entries), TRUTH, 'R.json', tasks)


def test_columns():
    found = read(GOOD, {**GOOD, 'image_id': 2.0, 'category_id': 4, 'score': 1})
    assert list(found) == ['bbox']
    boxes = found['bbox']
    assert boxes.image.tolist() == [1, 0] and boxes.category.tolist() == [1, 0]
    assert boxes.scores.tolist() == [0.5, 1] and boxes.boxes.tolist()[0] == [1, 2, 3, 4]
    assert boxes.masks is None and boxes.areas().tolist() == [12, 12]


def test_tasks_come_from_what_every_entry_has():
    both = {**GOOD, 'segmentation': MASK}
    masks = {key: value for key, value in both.items() if key != 'bbox'}
    assert list(read(GOOD)) == ['bbox']
    assert list(read(both)) == ['bbox', 'segm']
    assert list(read(masks)) == ['segm']
    assert list(read(both, GOOD)) == ['bbox']
    assert list(read(both, tasks=['segm'])) == ['segm']
    assert list(read()) == ['bbox'] and len(read()['bbox']) == 0
    assert list(read(tasks=['bbox', 'segm'])) == ['bbox', 'segm']


@pytest.mark.parametrize('mask', [MASK, POLYGON])
def test_areas_and_boxes_of_masks(mask):
    found = read({**GOOD, 'bbox': [0, 0, 40, 40], 'segmentation': mask})
    assert found['segm'].areas().tolist() == [12]
    assert found['bbox'].areas().tolist() == [1600]
    entry = {key: value for key, value in GOOD.items() if key != 'bbox'}
    found = read({**entry, 'segmentation': mask}, tasks=['bbox'])
    assert found['bbox'].boxes.tolist() == [[1, 2, 3, 4]]


def test_more_than_255_masks_have_areas():
    """pycocotools' area of a list overflows there."""
    found = read(*[{**GOOD, 'segmentation': MASK}] * 300)
    assert found['segm'].areas().tolist() == [12] * 300


def test_a_field_that_some_lack_is_told(tmp_path):
    path = tmp_path / 'R.json'
    path.write_text(json.dumps([{**GOOD, 'segmentation': MASK}, GOOD, GOOD]))
    read_file = read_results(path, TRUTH)
    assert list(read_file.found) == ['bbox']
    assert read_file.notes == (
        f'{path}: 2 of 3 detections have no segmentation, so that segm is not '
        'evaluated',
    )
    assert read_results(path, TRUTH, ['bbox']).notes == ()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'image_id': 6},
            r'unknown image_id \(A.json has 2, e.g. 2\); .* number 1 \(6\)',
        ),
        ({'image_id': None}, 'have an unknown image_id'),
        ({'category_id': 1}, r'have an unknown category_id.*\(1\)'),
        ({'score': float('nan')}, r'a score that is no finite number.*\(nan, nan\)'),
        ({'score': float('inf')}, 'have a score that is no finite number'),
        ({'score': '0.5'}, "have a score that is no finite number.*'0.5'"),
        ({'bbox': [1, 2, -3, 4]}, r'negative width or height .*\[1, 2, -3, 4\]'),
        ({'bbox': [1, 2, 3]}, 'not four finite numbers'),
        ({'bbox': [1, 2, 3, float('nan')]}, 'not four finite numbers'),
        ({'bbox': 'box'}, 'not four finite numbers'),
        ({'segmentation': {'counts': 'ab'}}, 'a size of two whole'),
        ({'segmentation': {**MASK, 'counts': 'junk~'}}, 'counts that fill it'),
        ({'segmentation': [[0, 0, float('nan'), 5, 5, 5]]}, 'lists of finite'),
        ({'segmentation': [[5, 5, 25]]}, 'fewer than 3 points'),
        ({'bbox': [5]}, r'not four finite numbers.*\[5\]'),
        ({'bbox': '5566'}, 'not four finite numbers'),
        ({'bbox': [10**400] * 4}, 'not four finite numbers'),
        ({'score': True}, 'no finite number'),
        ({'score': 10**400}, 'no finite number'),
        ({'segmentation': 'mask'}, 'neither polygons .* nor an RLE'),
        ({'segmentation': rle(np.ones((9, 9)))}, r'another size .*\[9, 9\]'),
    ],
)
def test_faulty_entries_are_named_and_counted(change, message):
    good = {**GOOD, 'segmentation': MASK}
    with pytest.raises(UserError, match=f'R.json: 2 of 4 detections .*{message}'):
        read(good, {**good, **change}, good, {**good, **change})


@pytest.mark.parametrize(
    ('key', 'value', 'shown', 'known'),
    [
        ('image_id', int, '100, 101, 102', 'A.json has 2, e.g. 2'),
        ('image_id', str, "'100', '101', '102'", 'A.json has 2, e.g. 2'),
        ('category_id', int, '100, 101, 102', 'A.json has 2, e.g. 4'),
    ],
)
def test_results_of_another_dataset_are_recognised(key, value, shown, known):
    entries = [{**GOOD, key: value(100 + index % 7)} for index in range(1020)]
    with pytest.raises(UserError) as caught:
        read(*entries)
    assert 'none of the 1,020 detections' in str(caught.value)
    assert f'unknown {key} (7 ids, e.g. {shown}, ...; {known})' in str(caught.value)


def test_all_faults_come_in_one_message():
    entry = {**GOOD, 'image_id': 6, 'category_id': 1, 'score': float('nan')}
    with pytest.raises(UserError, match='image_id.*category_id.*score'):
        read(entry)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'images': [], 'annotations': []}, 'it is an annotation file'),
        ({'bbox': 0.4}, 'it is another object'),
        (0.4, 'it is a float'),
        ([1, 2], '2 of 2 entries are not, number 0 has int'),
        ([{'image_id': 5, 'caption': ''}], r"number 0 has \['caption', 'image_id'\]"),
    ],
)
def test_files_of_another_kind(content, message):
    with pytest.raises(UserError, match=f'R.json is not a result file: .*{message}'):
        detections_of(content, TRUTH, 'R.json')


@pytest.mark.parametrize(
    ('raw', 'message'),
    [
        (None, 'does not exist'),
        (b'', 'is not JSON'),
        (b'[{"image_id": 5', 'is not JSON'),
        (b'\xff\xfe\x00', 'is not JSON'),
        (b'[' * 100_000, 'is not JSON'),
        (b'[' + b'9' * 5000 + b']', 'is not JSON'),
    ],
)
def test_files_that_cannot_be_read(tmp_path, raw, message):
    path = tmp_path / 'R.json'
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(UserError, match=f'result file .*R.json.* {message}'):
        read_results(path, TRUTH)
    with pytest.raises(UserError, match=f'annotation file .*R.json.* {message}'):
        read_ground_truth(path)


@pytest.mark.parametrize('task', ['bbox', 'segm'])
def test_written_results_read_back_to_the_same_bits(tmp_path, task):
    content, results = random_case(51)
    assert len(results) > 10
    truth = ground_truth(content)
    found = detections_of(results, truth, tasks=[task])[task]
    path = tmp_path / 'new' / 'R.json'
    write_results(found, truth, path)
    again = read_results(path, truth, [task]).found[task]
    for name in ('image', 'category', 'scores'):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name
    if task == 'bbox':
        assert np.array_equal(again.boxes, found.boxes)
    else:
        assert [*again.masks] == [*found.masks]
        assert 'bbox' not in json.loads(path.read_text())[0]
    assert [f.name for f in path.parent.iterdir()] == ['R.json']


def test_no_results_are_an_empty_list(tmp_path):
    write_results(read()['bbox'], TRUTH, tmp_path / 'R.json')
    assert json.loads((tmp_path / 'R.json').read_text()) == []


def test_results_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(UserError, match='cannot be written'):
        write_results(read()['bbox'], TRUTH, tmp_path / 'file' / 'R.json')
    assert (tmp_path / 'file').read_text() == 'mine'


def test_the_server_gets_the_100_highest_scores_of_each_image():
    draw = np.random.RandomState(0)
    image = draw.randint(0, 3, 500)
    scores = draw.randint(0, 40, 500) / 40  # many are equal
    boxes = np.arange(2000).reshape(500, 4).astype(float)
    found = Detections(image, image * 0, scores, boxes=boxes)
    top = top_of_each_image(found, 100)
    assert (np.diff(top.boxes[:, 0]) > 0).all()  # the order stays
    for at in range(3):
        mine = np.flatnonzero(image == at)
        best = sorted(mine, key=lambda i: -scores[i])[:100]  # stable
        assert top.boxes[top.image == at].tolist() == boxes[sorted(best)].tolist()
    counts = [b'%d' % i for i in range(500)]
    masks = Rles.of(counts, np.ones((500, 2), int))
    top = top_of_each_image(Detections(image, image * 0, scores, masks=masks), 1)
    assert len(top) == 3 and [counts.index(m['counts']) for m in top.masks] == sorted(
        int(np.flatnonzero(image == at)[scores[image == at].argmax()])
        for at in range(3)
    )


@pytest.mark.parametrize(
    ('annotations', 'algorithm', 'name'),
    [
        ('a/image_info_test-dev2017.json', 'my_eca', 'test-dev2017_my-eca'),
        ('instances_val2017.json', 'faster-rcnn_r50', 'val2017_faster-rcnn-r50'),
        ('my data.json', 'ümlaut/x', 'my-data_ümlaut-x'),
    ],
)
def test_the_servers_file_name(annotations, algorithm, name):
    zipped = submission_path(Path('a'), annotations, algorithm)
    assert zipped == Path(f'a/detections_{name}_results.zip')


def test_submission_has_the_best_100_and_leaves_only_the_zip(tmp_path):
    many = read(*({**GOOD, 'score': i / 200} for i in range(150)))['bbox']
    folder = tmp_path / 'bbox'
    folder.mkdir()
    beside = folder / 'detections_A_x_results.json'
    beside.write_text('mine')
    target = write_submission(many, TRUTH, folder, 'x')
    assert {f.name for f in folder.iterdir()} == {target.name, beside.name}
    assert beside.read_text() == 'mine'
    with zipfile.ZipFile(target) as archive:
        [name] = archive.namelist()
        scores = [one['score'] for one in json.loads(archive.read(name))]
    assert name == f'{target.stem}.json'
    assert scores == [i / 200 for i in range(50, 150)]
