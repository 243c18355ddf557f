"""Error analysis and comparison, against counts made by hand or by a plain loop."""

import json
from dataclasses import replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from pycocotools import mask as mask_api

from eca_mmdet.datasets.detections import Detections, detections_of
from eca_mmdet.datasets.ground_truth import ground_truth
from eca_mmdet.evaluation import error_analysis as analysis
from eca_mmdet.evaluation.bootstrap import difference, draw_samples, sample_class
from eca_mmdet.evaluation.coco_eval import evaluate
from eca_mmdet.evaluation.error_analysis import analyze
from tests.references.coco import box_mask, random_case, rle

SIDE = 200


def data(objects, found, classes=2):
    """Ground truth and detections from (image, class, box) and (..., score)."""
    images = sorted({one[0] for one in [*objects, *found]})
    content = {
        'images': [{'id': i, 'height': SIDE, 'width': SIDE} for i in images],
        'categories': [{'id': 10 * c, 'name': f'c{c}'} for c in range(1, classes + 1)],
        'annotations': [
            {
                'id': index,
                'image_id': image,
                'category_id': 10 * kind,
                'bbox': box,
                'area': box[2] * box[3],
                'segmentation': rle(box_mask(box, SIDE, SIDE)),
            }
            for index, (image, kind, box) in enumerate(objects)
        ],
    }
    entries = [
        {
            'image_id': image,
            'category_id': 10 * kind,
            'bbox': box,
            'score': score,
            'segmentation': rle(box_mask(box, SIDE, SIDE)),
        }
        for image, kind, box, score in found
    ]
    truth = ground_truth(content)
    return truth, detections_of(entries, truth)


def counts(images):
    return [
        {key: one[key] for key in ('image_id', 'f1', 'tp', 'fp', 'fn')}
        for one in images
    ]


A, B, C = [10, 10, 40, 40], [100, 10, 40, 40], [10, 100, 40, 40]
NEAR_A = [10, 10, 40, 16]  # IoU 0.4 with A: badly placed


def test_each_kind_of_error_is_counted():
    objects = [(1, 1, A), (1, 1, B), (1, 2, C), (2, 1, A), (2, 2, B)]
    found = [
        (1, 1, A, 0.9),  # right
        (1, 1, A, 0.8),  # the same again
        (1, 2, B, 0.9),  # the right box of the wrong class
        (1, 1, [150, 150, 20, 20], 0.9),  # nothing is there
        (2, 1, NEAR_A, 0.9),  # badly placed
        # C in image 1 and B in image 2 are missed
    ]
    truth, detections = data(objects, found)
    for task in ('bbox', 'segm'):
        errors = analyze(truth, detections[task], task)['errors']
        assert errors['counts'] == {
            **{'Cls': 1, 'Loc': 1, 'Both': 0, 'Dupe': 1, 'Bkg': 1},
            'Miss': 2,
        }
        metrics = evaluate(truth, detections[task], task).metrics
        assert errors['ap_base'] == pytest.approx(metrics['AP50'], abs=1e-6)
        assert errors['delta_ap']['Both'] == 0 < errors['delta_ap']['Cls']


def test_a_perfect_detector_has_no_errors():
    objects = [(1, 1, A), (1, 2, B)]
    truth, detections = data(objects, [(*one, 0.9) for one in objects])
    found = analyze(truth, detections['bbox'], 'bbox')
    assert set(found['errors']['counts'].values()) == {0}
    assert found['confusion']['matrix'] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    for name in ('worst_images', 'best_images'):
        assert counts(found[name]) == [
            {'image_id': 1, 'f1': 1.0, 'tp': 2, 'fp': 0, 'fn': 0}
        ]
    assert found['pr_curves']['0.50:0.95'] == pytest.approx([1] * 101)
    assert found['pr_curves']['recall'][50] == 0.5
    assert found['calibration']['ece'] == pytest.approx(0.1)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize('task', ['bbox', 'segm'])
@pytest.mark.parametrize('at_once', [1, 5, 12])
def test_images_may_be_counted_in_parts(monkeypatch, tmp_path, task, at_once):
    """Twelve images; also in the pictures."""
    draw = np.random.default_rng(at_once)

    def some(count):
        boxes = np.hstack([draw.uniform(0, 90, (count, 2)), np.full((count, 2), 40)])
        images, kinds = draw.integers(1, 13, count), draw.integers(1, 4, count)
        return zip(images.tolist(), kinds.tolist(), boxes.tolist(), strict=True)

    objects = [*some(60)]
    found = [(*one, draw.random()) for one in objects if draw.random() < 0.8]
    found += [(*one, draw.random()) for one in some(80)]
    truth, detections = data(objects, found, 3)
    pictures = []
    for number in (5000, at_once):
        monkeypatch.setattr(analysis, 'IMAGES_AT_ONCE', number)
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        result = analyze(truth, detections[task], task, folder=folder)
        pictures.append((result, cv2.imread(str(folder / f'{task}_confusion.png'))))
    (whole, picture), (parts, same_picture) = pictures
    assert parts == whole
    assert sum(map(sum, whole['confusion']['matrix'])) > 60
    assert np.array_equal(picture, same_picture)


@pytest.mark.parametrize('task', ['bbox', 'segm'])
@pytest.mark.parametrize('classes', [1, 2])
def test_confusion_matrix_of_one_and_two_classes(task, classes):
    """Rows are objects, columns detections, the last of each is the background."""
    objects = [(1, 1, A), (1, classes, B), (1, classes, C), (2, 1, A)]
    found = [
        (1, 1, A, 0.9),
        (1, 1, B, 0.9),  # of class 2, if there are two
        (2, 1, C, 0.9),  # nothing is there
        (2, 1, A, 0.2),  # not confident: does not count
    ]
    truth, detections = data(objects, found, classes)
    matrix = analyze(truth, detections[task], task)['confusion']
    if classes == 1:
        assert matrix['classes'] == ['c1', 'background']
        assert matrix['matrix'] == [[2, 2], [1, 0]]
    else:
        assert matrix['classes'] == ['c1', 'c2', 'background']
        assert matrix['matrix'] == [[1, 0, 1], [1, 0, 1], [1, 0, 0]]


def test_crowds_and_many_detections_in_the_confusion_matrix():
    """A detection in a crowd of its class is neither right nor wrong; none is cut."""
    objects = [(1, 1, A), (1, 2, B)]
    truth, detections = data(
        objects,
        [
            (1, 1, A, 0.35),  # the lowest score of 203
            *((1, 1, [150, 150, 20, 20], 0.9) for _ in range(100)),
            *((1, 2, [150, 150, 20, 20], 0.9) for _ in range(101)),
            (1, 2, [100, 12, 20, 20], 0.9),  # in the crowd
        ],
    )
    crowded = replace(truth, crowd=np.array([False, True]))
    found = analyze(crowded, detections['bbox'], 'bbox')
    assert found['confusion']['matrix'] == [[1, 0, 0], [0, 0, 0], [100, 101, 0]]
    assert found['confusion']['rows'] == 'objects'
    [worst] = found['worst_images']
    assert (worst['tp'], worst['fn']) == (0, 1)  # COCO takes 100 of a class
    more = analyze(crowded, detections['bbox'], 'bbox', max_dets=(1, 300))
    [worst] = more['worst_images']
    assert (worst['tp'], worst['fp'], worst['fn']) == (1, 201, 0)


def iou(a, b):
    x = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    y = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return x * y / (a[2] * a[3] + b[2] * b[3] - x * y)


def random_boxes(seed, images=12, classes=3):
    draw = np.random.RandomState(seed)
    objects, found = [], []
    for image in range(images):
        for _ in range(draw.randint(1, 5)):
            box = [*draw.randint(0, 120, 2).tolist(), *draw.randint(20, 70, 2).tolist()]
            kind = int(draw.randint(1, classes + 1))
            objects.append((image, kind, box))
            for _ in range(draw.randint(0, 3)):
                other = (np.array(box) * draw.uniform(0.85, 1.15, 4)).tolist()
                wrong = int(draw.randint(1, classes + 1))
                kind = wrong if draw.rand() < 0.3 else kind
                found.append((image, kind, other, float(draw.rand())))
    return objects, found


@pytest.mark.parametrize('seed', range(5))
def test_confusion_matrix_against_a_loop(seed):
    """By score, each detection takes the free object of highest IoU from 0.5 on."""
    objects, found = random_boxes(seed)
    truth, detections = data(objects, found, 3)
    expected = np.zeros((4, 4), int)
    taken = set()
    for image, kind, box, score in sorted(found, key=lambda one: -one[3]):
        if score < 0.3:
            continue
        overlaps = [
            (iou(box, other), index)
            for index, (at, _, other) in enumerate(objects)
            if at == image and index not in taken
        ]
        best, index = max(overlaps, default=(0, None))
        if best >= 0.5:
            taken.add(index)
            expected[objects[index][1] - 1, kind - 1] += 1
        else:
            expected[3, kind - 1] += 1
    for index, (_, kind, _) in enumerate(objects):
        expected[kind - 1, 3] += index not in taken
    matrix = analyze(truth, detections['bbox'], 'bbox')['confusion']['matrix']
    assert matrix == expected.tolist()


def test_calibration_against_a_loop():
    objects, found = random_boxes(7, classes=1)
    truth, detections = data(objects, found, 1)
    right, taken = [], set()
    order = sorted(range(len(found)), key=lambda i: -found[i][3])
    for at in order:
        image, _, box, _ = found[at]
        best, index = max(
            (
                (iou(box, other), index)
                for index, (where, _, other) in enumerate(objects)
                if where == image and index not in taken
            ),
            default=(0, None),
        )
        if best >= 0.5:
            taken.add(index)
            right.append(at)
    calibration = analyze(truth, detections['bbox'], 'bbox')['calibration']
    error = 0
    for index in range(10):
        mine = [i for i, one in enumerate(found) if int(one[3] * 10) == index]
        row = calibration['bins'][index]
        assert row['count'] == len(mine)
        if mine:
            accuracy = sum(i in right for i in mine) / len(mine)
            confidence = sum(found[i][3] for i in mine) / len(mine)
            assert row['avg_accuracy'] == pytest.approx(accuracy)
            assert row['avg_confidence'] == pytest.approx(confidence)
            error += len(mine) / len(found) * abs(accuracy - confidence)
    assert calibration['ece'] == pytest.approx(error)


def test_worst_images_come_first():
    objects = [(1, 1, A), (2, 1, A), (3, 1, A), (3, 1, B), (4, 1, A)]
    found = [
        (1, 1, A, 0.9),
        *((2, 1, [150, 100, 30, 30 + i], 0.9) for i in range(3)),
        (3, 1, A, 0.9),
        (4, 1, C, 0.9),
        (1, 1, C, 0.1),  # not confident
    ]
    truth, detections = data(objects, found)
    analysis = analyze(truth, detections['bbox'], 'bbox')
    assert counts(analysis['worst_images']) == [
        {'image_id': 2, 'f1': 0.0, 'tp': 0, 'fp': 3, 'fn': 1},
        {'image_id': 4, 'f1': 0.0, 'tp': 0, 'fp': 1, 'fn': 1},
        {'image_id': 3, 'f1': pytest.approx(2 / 3), 'tp': 1, 'fp': 0, 'fn': 1},
        {'image_id': 1, 'f1': 1.0, 'tp': 1, 'fp': 0, 'fn': 0},
    ]
    best = [one['image_id'] for one in analysis['best_images']]
    assert best == [1, 3, 2, 4]


def test_of_equally_good_images_the_fullest_come_first():
    objects = [(1, 1, A), (2, 1, A), (2, 1, B), (3, 2, A), (3, 1, B), (3, 1, C)]
    truth, detections = data(objects, [(*one, 0.9) for one in objects])
    found = analyze(truth, detections['bbox'], 'bbox')
    assert [one['image_id'] for one in found['best_images']] == [3, 2, 1]


@pytest.mark.parametrize('task', ['bbox', 'segm'])
def test_images_have_their_names_and_confident_detections(task):
    objects = [(7, 1, A), (9, 2, B)]
    found = [(9, 2, B, 0.5), (9, 1, C, 0.7), (9, 1, A, 0.29), (7, 1, A, 0.31)]
    truth, detections = data(objects, found)
    named = replace(truth, file_names=('seven.jpg', 'nine.jpg'))
    worst = analyze(named, detections[task], task)['worst_images']
    assert [one['file_name'] for one in worst] == ['nine.jpg', 'seven.jpg']
    first = worst[0]['detections']
    assert [(one['category_id'], one['score']) for one in first] == [
        (10, 0.7),
        (20, 0.5),
    ]
    if task == 'bbox':
        assert [one['bbox'] for one in first] == [C, B]
        assert [one['bbox'] for one in worst[1]['detections']] == [A]
    else:
        mask = mask_api.decode(first[0]['segmentation'])
        assert (mask == box_mask(C, SIDE, SIDE)).all()


def test_precision_recall_curves_are_the_evaluators():
    objects, found = random_boxes(3)
    truth, detections = data(objects, found, 3)
    curves = analyze(truth, detections['bbox'], 'bbox')['pr_curves']
    metrics = evaluate(truth, detections['bbox'], 'bbox').metrics
    for name, column in (('0.50', 'AP50'), ('0.75', 'AP75'), ('0.50:0.95', 'AP')):
        assert np.mean(curves[name]) == pytest.approx(metrics[column], abs=1e-12)
    assert len(curves['recall']) == 101


@pytest.mark.parametrize('task', ['bbox', 'segm'])
def test_precision_recall_and_f1_over_the_score_by_hand(task):
    """Four objects; right at 0.9, 0.5 and 0.3, wrong at 0.6 and 0.4."""
    objects = [(1, 1, A), (1, 1, B), (1, 2, C), (2, 1, A)]
    found = [
        (1, 1, A, 0.9),
        (1, 1, [150, 150, 20, 20], 0.6),
        (1, 1, B, 0.5),
        (2, 1, C, 0.4),
        (1, 2, C, 0.3),
    ]
    truth, detections = data(objects, found, 3)
    curves = analyze(truth, detections[task], task)['score_curves']
    expected = {  # hundredths: precision, recall, F1
        (0, 30): (3 / 5, 3 / 4, 2 / 3),
        (31, 40): (2 / 4, 2 / 4, 1 / 2),
        (41, 50): (2 / 3, 2 / 4, 4 / 7),
        (51, 60): (1 / 2, 1 / 4, 1 / 3),
        (61, 90): (1, 1 / 4, 2 / 5),
        (91, 100): (None, 0, 0),
    }
    assert curves['scores'] == [at / 100 for at in range(101)]
    for (low, high), values in expected.items():
        for key, value in zip(('precision', 'recall', 'f1'), values, strict=True):
            for at in range(low, high + 1):
                assert curves[key][at] == value or curves[key][at] == pytest.approx(
                    value
                )
    assert curves['best'] == pytest.approx(
        {'score': 0.3, 'precision': 0.6, 'recall': 0.75, 'f1': 2 / 3}
    )
    assert [
        (c['name'], c['objects'], c['score'], c['f1']) for c in curves['classes']
    ] == [('c1', 3, 0.5, pytest.approx(2 / 3)), ('c2', 1, 0.3, 1)]


def test_crowds_and_scores_beyond_0_to_1_in_the_curves(tmp_path):
    """A detection in a crowd is neither right nor wrong; of logits there are none."""
    objects = [(1, 1, A), (1, 1, B)]
    found = [(1, 1, A, 1.0), (1, 1, C, 0.0), (1, 1, [100, 12, 20, 20], 0.5)]
    truth, detections = data(objects, found)
    crowded = replace(truth, crowd=np.array([False, True]))
    curves = analyze(crowded, detections['bbox'], 'bbox')['score_curves']
    assert (curves['precision'][0], curves['recall'][0]) == (1 / 2, 1)
    assert set(curves['precision'][1:]) == {1} == set(curves['f1'][1:])
    logits = replace(detections['bbox'], scores=np.array([3.5, -2.0, 0.5]))
    result = analyze(crowded, logits, 'bbox', folder=tmp_path)
    assert result['score_curves'] is result['calibration'] is None
    assert result['worst_images'][0]['tp'] == 1


def texts_of(axes):
    return [text.get_text() for text in (*axes.texts, *axes.figure.texts)]


def test_pictures_have_the_numbers_of_the_page(tmp_path, monkeypatch):
    """AP gains as 0-100, counts in the confusion matrix, and the classes left out."""
    drawn = {}
    finish = plt.Figure.savefig

    def keep(figure, path, **settings):
        drawn[path.stem] = figure.axes[0]
        finish(figure, path, **settings)

    monkeypatch.setattr(plt.Figure, 'savefig', keep)
    kinds = 40
    objects = [(1, kind, A) for kind in range(1, kinds + 1)]
    found = [(1, kind, A, 0.9) for kind in range(1, kinds - 1)]
    # The last two are each found as one of the other, twice.
    for image in (2, 3):
        objects += [(image, 39, A), (image, 40, B)]
        found += [(image, 40, A, 0.8), (image, 39, B, 0.8)]
    truth, detections = data(objects, found, kinds)
    result = analyze(truth, detections['bbox'], 'bbox', folder=tmp_path)
    errors = drawn['bbox_errors']
    gains = result['errors']['delta_ap']
    assert texts_of(errors)[:6] == [
        f'{100 * gains[kind]:.1f}' for kind in analysis.TIDE_ERRORS
    ]
    assert f'baseline AP50 = {100 * result["errors"]["ap_base"]:.1f}' in texts_of(
        errors
    )
    assert [label.get_text().split(':')[0] for label in errors.get_yticklabels()] == [
        *('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss'),
    ]
    axes = drawn['bbox_confusion']
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == 26 and names[-3:] == ['c39', 'c40', 'background']
    assert '25 classes most often confused' in axes.get_title()
    assert '15 more are left out' in axes.get_title()
    matrix = np.array(result['confusion']['matrix'])
    order = [result['confusion']['classes'].index(name) for name in names]
    for text in axes.texts:
        column, row = map(int, text.get_position())
        assert text.get_text() == str(matrix[order[row], order[column]])
    assert '2' in texts_of(axes)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize(
    'kind', ['no detections', 'no objects', 'one class', 'nothing']
)
@pytest.mark.parametrize('task', ['bbox', 'segm'])
def test_pictures_and_json_of_sparse_data(tmp_path, kind, task):
    objects = [] if kind in ('no objects', 'nothing') else [(1, 1, A), (2, 1, B)]
    found = [] if kind in ('no detections', 'nothing') else [(1, 1, A, 0.9)]
    content = {
        'images': [{'id': i, 'height': SIDE, 'width': SIDE} for i in (1, 2)],
        'categories': [{'id': 10, 'name': 'c1'}],
        'annotations': [],
    }
    truth = data(objects, [], 1)[0] if objects else ground_truth(content)
    entries = [
        {
            'image_id': image,
            'category_id': 10 * c,
            'bbox': box,
            'score': s,
            'segmentation': rle(box_mask(box, SIDE, SIDE)),
        }
        for image, c, box, s in found
    ]
    detections = detections_of(entries, truth, tasks=[task])[task]
    result = analyze(truth, detections, task, folder=tmp_path)
    json.dumps(result, allow_nan=False)
    names = {f'{task}_{part}.png' for part in PARTS}
    assert {file.name for file in tmp_path.iterdir()} == names
    for name in names:
        assert cv2.imread(str(tmp_path / name)).std() > 5, name
    if not objects:
        assert result['pr_curves']['0.50'] is None


PARTS = ('errors', 'confusion', 'pr_curves', 'calibration')


def test_pictures_are_not_empty_and_quiet(tmp_path, capfd):
    objects, found = random_boxes(3)
    truth, detections = data(objects, found, 3)
    analyze(truth, detections['bbox'], 'bbox', folder=tmp_path)
    assert capfd.readouterr() == ('', '')
    for part in PARTS:
        picture = cv2.imread(str(tmp_path / f'bbox_{part}.png'))
        assert min(picture.shape[:2]) > 400 and picture.std() > 10, part


def two_detectors(seed, shift):
    """Detections of good boxes, and the same moved: a worse detector."""
    objects, found = random_boxes(seed, images=60)
    truth, detections = data(objects, found, 3)
    first = detections['bbox']
    boxes = first.boxes + [shift, shift, 0, 0]
    second = Detections(first.image, first.category, first.scores, boxes=boxes)
    return truth, *((evaluate(truth, one, 'bbox'), one) for one in (first, second))


@pytest.mark.parametrize(
    'max_dets', [(1, 10, 100), (1, 2), (2,), (1, 2, 3, 4), (1, 2, 3)]
)
def test_a_sample_is_evaluated_as_if_its_images_were_there_as_often_as_drawn(max_dets):
    """The mean of the classes is the value of all of them."""
    truth, (_, found), _ = two_detectors(5, 0)
    times = draw_samples(len(truth.image_ids), 5, 0)
    assert (times.sum(1) == len(truth.image_ids)).all() and times.max() > 1
    classes = [
        sample_class(truth, found, at, 'bbox', times, max_dets) for at in range(3)
    ]
    for sample, counts in enumerate(times):
        chosen = np.repeat(np.arange(len(counts)), counts)
        expected = evaluate(*drawn(truth, found, chosen), 'bbox', max_dets)
        rows = [values[sample] for values in classes]
        means = np.ma.masked_invalid(rows).mean(0).filled(np.nan)
        for result, values in zip(
            (*expected.classes, expected), (*rows, means), strict=True
        ):
            wanted = [np.nan if v is None else v for v in result.metrics.values()]
            assert list(values) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_equal_detectors_differ_by_nothing(capfd):
    truth, first, second = two_detectors(1, 0)
    found = difference(truth, first, second, bootstrap=50)
    for part in (found.metrics, found.low, found.high):
        assert set(part.values()) <= {0.0, None}
    assert capfd.readouterr() == ('', '')


def test_interval_is_that_of_a_bootstrap_by_hand():
    """Draw images with replacement, evaluate both detectors on each sample."""
    truth, first, second = two_detectors(2, 6)
    found = difference(truth, first, second, bootstrap=500, seed=3)
    assert found.metrics['AP'] == second[0].metrics['AP'] - first[0].metrics['AP'] < 0
    assert [one.metrics['AP'] for one in found.classes] == [
        other.metrics['AP'] - one.metrics['AP']
        for one, other in zip(first[0].classes, second[0].classes, strict=True)
    ]
    draw = np.random.RandomState(0)
    deltas = []
    for _ in range(500):
        chosen = draw.randint(0, len(truth.image_ids), len(truth.image_ids))
        sampled = [
            evaluate(*drawn(truth, one[1], chosen), 'bbox') for one in (first, second)
        ]
        aps = [
            [one.metrics['AP'], *(each.metrics['AP'] for each in one.classes)]
            for one in sampled
        ]
        deltas.append(np.subtract(aps[1], aps[0]))
    lows, highs = np.percentile(deltas, [2.5, 97.5], axis=0)
    for part, low, high in zip((found, *found.classes), lows, highs, strict=True):
        assert part.low['AP'] == pytest.approx(low, abs=0.1 * (high - low))
        assert part.high['AP'] == pytest.approx(high, abs=0.1 * (high - low))
        assert part.low['AP'] < part.metrics['AP'] < part.high['AP']
    assert found.high['AP'] < 0


def drawn(truth, found, chosen):
    """The data of a sample of images, in which one may occur more than once."""
    content = {
        'images': [{'id': at} for at in range(len(chosen))],
        'categories': [
            {'id': at, 'name': name} for at, name in enumerate(truth.category_names)
        ],
        'annotations': [
            {
                'image_id': at,
                'category_id': int(truth.category[row]),
                'bbox': truth.boxes[row].tolist(),
                'area': float(truth.areas[row]),
            }
            for at, image in enumerate(chosen)
            for row in np.flatnonzero(truth.image == image)
        ],
    }
    rows = [np.flatnonzero(found.image == image) for image in chosen]
    owner = np.repeat(np.arange(len(chosen)), [len(one) for one in rows])
    kept = np.concatenate(rows)
    return ground_truth(content), Detections(
        owner, found.category[kept], found.scores[kept], boxes=found.boxes[kept]
    )


def test_the_seed_makes_the_interval_repeatable():
    truth, first, second = two_detectors(2, 6)
    runs = [difference(truth, first, second, 50, seed).low for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_empty_ranges_have_no_interval():
    content, results = random_case(51)
    content['annotations'] = [{**one, 'area': 500} for one in content['annotations']]
    truth = ground_truth(content)
    found = detections_of(results, truth, tasks=['bbox'])['bbox']
    one = evaluate(truth, found, 'bbox'), found
    compared = difference(truth, one, one, bootstrap=20)
    assert (
        compared.metrics['APL'] is compared.low['APL'] is compared.high['APL'] is None
    )
    assert compared.low['APS'] == 0
    without = difference(truth, one, one, bootstrap=0)
    assert without.low == without.classes[0].low == {}
    assert without.classes[0].metrics['APS'] == 0


def test_a_class_that_nobody_looked_for_has_no_difference():
    objects, found = random_boxes(4, images=10)
    objects.append((0, 4, A))
    truth, detections = data(objects, [one for one in found if one[1] == 1], 5)
    one = evaluate(truth, detections['bbox'], 'bbox'), detections['bbox']
    first, second, _, single, empty = difference(truth, one, one, 20).classes
    assert first.high['AP'] == second.low['AP'] == second.metrics['AP'] == 0
    assert empty.objects == 0 and {*empty.low.values()} == {None}
    # All objects are on one image: a bootstrap has nothing to draw from.
    assert single.metrics['AP'] == 0 and single.low['AP'] is single.high['AP'] is None
