"""CocoTableMetric: from a detector's predictions to COCO's numbers."""

import json
import os
import subprocess
import textwrap
import zipfile

import numpy as np
import pytest
import torch

from eca_mmdet.utils.errors import UserError
from tests.conftest import PYTHON, REPOSITORY
from tests.references.coco import box_mask, polygon, pycocotools_curves

pytestmark = pytest.mark.openmmlab

CLASSES = ('dog', 'cat', 'bird')
IDS = {'dog': 30, 'cat': 2, 'bird': 17}  # the file's order is not that of the ids


@pytest.fixture
def metric_type(mmdet_ready):
    from eca_mmdet.evaluation.metric import CocoTableMetric

    return CocoTableMetric


@pytest.fixture
def data(tmp_path):
    """An annotation file of 9 images, its content, and predictions for each image."""
    content, samples = make_data()
    path = tmp_path / 'instances_val.json'
    path.write_text(json.dumps(content))
    return path, content, samples


def make_data(images=9, side=80, seed=0):
    draw = np.random.RandomState(seed)
    content = {
        'images': [
            {'id': 100 - 3 * i, 'height': side, 'width': side + 10}
            for i in range(images)
        ],
        'categories': [{'id': IDS[name], 'name': name} for name in CLASSES],
        'annotations': [],
    }
    samples = []
    for image in content['images']:
        boxes, labels = [], []
        for _ in range(draw.randint(0, 5)):
            x, y = draw.randint(0, side - 20, 2).tolist()
            w, h = draw.randint(8, 60, 2).tolist()
            w, h = min(w, side - x), min(h, side - y)
            label = draw.randint(3)
            corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
            content['annotations'].append(
                {
                    'id': len(content['annotations']),  # from 0
                    'image_id': image['id'],
                    'category_id': IDS[CLASSES[label]],
                    'bbox': [x, y, w, h],
                    'area': w * h,
                    'iscrowd': 0,
                    'segmentation': polygon(*corners),
                }
            )
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
        samples.append(make_sample(draw, image, boxes, labels))
    return content, samples


def make_sample(draw, image, boxes, labels):
    """A data sample as mmengine hands it to a metric: noisy copies of the objects."""
    size = image['height'], image['width']
    boxes = np.array(boxes * 2 + [[5, 5, 25, 25]] * 3, np.float32)
    boxes += draw.randn(*boxes.shape).astype(np.float32) * 2
    labels = np.array([*labels, *draw.randint(0, 3, len(labels) + 3)])
    masks = [box_mask((x, y, a - x, b - y), *size) for x, y, a, b in boxes]
    scores = draw.rand(len(boxes)).astype(np.float32)
    return {
        'img_id': image['id'],
        'ori_shape': size,
        'pred_instances': {
            'bboxes': torch.tensor(boxes),
            'scores': torch.tensor(scores),
            'labels': torch.tensor(labels),
            'masks': torch.tensor(np.stack(masks)).bool(),
        },
    }


def run(metric, samples, classes=CLASSES):
    metric.dataset_meta = {'classes': classes}
    for index in range(0, len(samples), 2):
        metric.process({}, samples[index : index + 2])
    return metric.evaluate(len(samples))


def reference(content, samples, task):
    """The 12 stats of pycocotools on plain dicts; annotation ids from 1."""
    from tests.references.coco import rle

    results = []
    for sample in samples:
        found = {k: v.numpy() for k, v in sample['pred_instances'].items()}
        columns = (found[key] for key in ('bboxes', 'scores', 'labels', 'masks'))
        for box, score, label, mask in zip(*columns, strict=True):
            x1, y1, x2, y2 = box.tolist()
            results.append(
                {
                    'image_id': sample['img_id'],
                    'category_id': IDS[CLASSES[label]],
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'score': float(score),
                    'segmentation': rle(mask),
                }
            )
    annotations = [{**a, 'id': a['id'] + 1} for a in content['annotations']]
    return pycocotools_curves({**content, 'annotations': annotations}, results, task)[2]


@pytest.mark.parametrize('backend', ['hotcoco', 'pycocotools'])
def test_values_are_pycocotools(metric_type, data, backend):
    path, content, samples = data
    metric = metric_type(str(path), ['bbox', 'segm'], backend=backend)
    found = run(metric, samples)
    names = ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL')
    mmdet = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    recalls = ('AR1', 'AR10', 'AR100', 'ARS', 'ARM', 'ARL')
    for task in ('bbox', 'segm'):
        expected = reference(content, samples, task)
        assert 0.05 < expected[0] < 0.95
        ours = [found[f'coco/{task}_{name}'] for name in (*names, *recalls)]
        assert ours == expected
        assert [found[f'coco/{task}_{name}'] for name in mmdet] == expected[:6]
    assert len(found) == 36
    assert metric.record['backend'] == backend


def test_agrees_with_mmdets_metric_where_that_is_right(metric_type, data):
    from mmdet.evaluation.metrics import CocoMetric

    path, content, samples = data
    for one in content['annotations']:
        one['id'] += 1
    content['categories'].sort(key=lambda one: one['id'])
    path.write_text(json.dumps(content))
    classes = tuple(one['name'] for one in content['categories'])
    found = run(metric_type(str(path), ['bbox', 'segm']), samples, classes)
    theirs = CocoMetric(str(path), ['bbox', 'segm'], proposal_nums=(1, 10, 100))
    expected = run(theirs, samples, classes)
    assert len(expected) == 12
    for name, value in expected.items():
        assert round(found[name], 3) == value, name


def test_class_rows_have_the_right_names(metric_type, data, caplog):
    """Detections of dogs alone, in a file whose categories are not sorted."""
    path, content, samples = data
    for sample in samples:
        found = sample['pred_instances']
        dogs = found['labels'] == CLASSES.index('dog')
        sample['pred_instances'] = {k: v[dogs] for k, v in found.items()}
    metric = metric_type(str(path), 'bbox', classwise=True)
    found = run(metric, samples)
    precision = {name: found[f'coco/bbox_{name}_AP'] for name in CLASSES}
    assert precision['dog'] > 0.1 and precision['cat'] == precision['bird'] == 0
    rows = metric.record['results']['bbox']['classes']
    assert {(row['name'], row['id']) for row in rows} == set(IDS.items())
    for row in rows:
        assert row['metrics']['AP'] == precision[row['name']]
        assert row['objects'] == sum(
            one['category_id'] == row['id'] for one in content['annotations']
        )


def test_labels_follow_the_order_of_the_file_as_mmdets_data_set_does(metric_type, data):
    """The order of the class names changes nothing: mmdet ignores it for labels."""
    path, _, samples = data
    first = run(metric_type(str(path)), samples)
    assert run(metric_type(str(path)), samples, tuple(reversed(CLASSES))) == first


def test_a_part_of_the_classes(metric_type, data):
    """Labels then count the chosen ones, in the order of the file."""
    path, content, samples = data
    kept = [one for one in content['annotations'] if one['category_id'] != IDS['dog']]
    content['annotations'] = kept
    for sample in samples:
        found = sample['pred_instances']
        kept = found['labels'] > 0
        sample['pred_instances'] = {k: v[kept] for k, v in found.items()}
    expected = reference(content, samples, 'bbox')
    for sample in samples:
        sample['pred_instances']['labels'] -= 1
    found = run(metric_type(str(path)), samples, ('bird', 'cat'))
    # pycocotools also averages over dogs where they have detections: they have none.
    assert found['coco/bbox_AP'] == expected[0] > 0


def test_a_part_of_an_unsorted_file_keeps_the_files_order():
    from eca_mmdet.datasets.ground_truth import ground_truth

    truth = ground_truth(make_data()[0])
    part = truth.only(('cat', 'dog'))
    assert part.category_ids == (2, 30)
    assert [part.category_names[at] for at in part.file_order] == ['dog', 'cat']
    assert len(part.image) == sum(
        truth.category_names[c] != 'bird' for c in truth.category
    )


def test_max_dets_are_in_the_table_and_in_the_names(metric_type, data, tmp_path):
    from mmengine.logging import MMLogger

    path, _, samples = data
    log = tmp_path / 'log'
    MMLogger.get_instance('max_dets', log_file=str(log))
    found = run(metric_type(str(path), max_dets=(1, 2)), samples)
    assert found['coco/bbox_AR2'] >= found['coco/bbox_AR1']
    assert found['coco/bbox_AP'] < run(metric_type(str(path)), samples)['coco/bbox_AP']
    text = log.read_text()
    assert 'at most 2 detections an image and class' in text and 'AR2' in text


def test_masks_as_rles_give_the_same(metric_type, data):
    from pycocotools import mask as api

    path, _, samples = data
    expected = run(metric_type(str(path), ['bbox', 'segm']), samples)
    for sample in samples:
        found = sample['pred_instances']
        masks = found['masks'].numpy().astype(np.uint8)
        found['masks'] = [api.encode(np.asfortranarray(one)) for one in masks]
    assert run(metric_type(str(path), ['bbox', 'segm']), samples) == expected


def test_masks_with_scores_of_their_own(metric_type, data):
    path, content, samples = data
    boxes = reference(content, samples, 'bbox')
    for sample in samples:
        found = sample['pred_instances']
        found['mask_scores'] = 1 - found['scores']
    found = run(metric_type(str(path), ['bbox', 'segm']), samples)
    for sample in samples:
        instances = sample['pred_instances']
        instances['scores'] = instances.pop('mask_scores')
    masks = reference(content, samples, 'segm')
    assert (found['coco/bbox_AP'], found['coco/segm_AP']) == (boxes[0], masks[0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_counts_as_its_values_are(metric_type, data, dtype):
    path, content, samples = data
    for sample in samples:
        found = sample['pred_instances']
        found['scores'] = found['scores'].to(dtype).float()
    expected = reference(content, samples, 'bbox')
    for sample in samples:
        found = sample['pred_instances']
        found['scores'] = found['scores'].to(dtype)
    assert run(metric_type(str(path)), samples)['coco/bbox_AP'] == expected[0]


def test_no_detections_at_all(metric_type, data):
    path, _, samples = data
    for sample in samples:
        found = sample['pred_instances']
        sample['pred_instances'] = {k: v[:0] for k, v in found.items()}
    found = run(metric_type(str(path), ['bbox', 'segm']), samples)
    assert found['coco/bbox_AP'] == found['coco/segm_AP'] == 0


def test_detections_that_are_not_finite_are_told_and_left_out(metric_type, data):
    path, _, samples = data
    clean = run(metric_type(str(path), ['bbox', 'segm']), samples)
    for sample in samples:
        found = sample['pred_instances']
        for key in found:
            found[key] = torch.cat([found[key][:1], found[key]])
        found['scores'][0] = float('nan')
    metric = metric_type(str(path), ['bbox', 'segm'])
    assert run(metric, samples) == clean
    total = sum(len(s['pred_instances']['scores']) for s in samples)
    [note] = metric.record['notes']
    assert note.startswith(f'9 of {total} detections are not finite')


def test_images_that_were_not_tested_are_told(metric_type, data):
    path, _, samples = data
    metric = metric_type(str(path))
    run(metric, samples[:7])
    [note] = metric.record['notes']
    assert note.startswith('2 of 9 images') and 'were not tested' in note


def test_masks_of_another_size_are_told(metric_type, data):
    path, _, samples = data
    found = samples[0]['pred_instances']
    found['masks'] = found['masks'][:, :50]
    metric = metric_type(str(path), 'segm')
    run(metric, samples)
    [note] = metric.record['notes']
    assert 'the masks of 1 images' in note and '[50, 90]' in note and '[80, 90]' in note


def test_metric_can_be_used_for_epoch_after_epoch(metric_type, data):
    path, _, samples = data
    metric = metric_type(str(path))
    assert run(metric, samples) == run(metric, samples)


def test_images_of_another_file(metric_type, data):
    path, _, samples = data
    samples[3]['img_id'] = 55
    with pytest.raises(UserError, match='1 of 9 images .* not in .* the first 55'):
        run(metric_type(str(path)), samples)


def test_labels_beyond_the_classes(metric_type, data):
    path, _, samples = data
    samples[3]['pred_instances']['labels'][0] = 3
    with pytest.raises(UserError, match='label 3, but .* has 3 of its classes'):
        run(metric_type(str(path)), samples)


def test_classes_of_another_file(metric_type, data):
    path, _, samples = data
    with pytest.raises(UserError, match=r"none of the classes \('Dog',\)"):
        run(metric_type(str(path)), samples, ('Dog',))


def test_labels_below_the_classes(metric_type, data):
    path, _, samples = data
    samples[3]['pred_instances']['labels'][0] = -1
    with pytest.raises(UserError, match='gives label -1, but .* has 3 of its classes'):
        run(metric_type(str(path)), samples)


def test_masks_of_some_images_alone(metric_type, data):
    path, _, samples = data
    del samples[2]['pred_instances']['masks']
    with pytest.raises(UserError, match='1 of 9 images have detections without masks'):
        run(metric_type(str(path), 'segm'), samples)


def test_rles_of_several_sizes_in_one_image(metric_type, data):
    path, _, samples = data
    masks = [{'size': [80, 90 + i], 'counts': b'0'} for i in range(3)]
    found = samples[0]['pred_instances']
    for key in found:
        found[key] = found[key][:3]
    found['masks'] = masks
    with pytest.raises(UserError, match='several sizes'):
        run(metric_type(str(path), 'segm'), samples)


def test_save_best_auto_takes_a_name_that_mmengine_knows(metric_type, data):
    from mmengine.hooks import CheckpointHook

    path, _, samples = data
    first = next(iter(run(metric_type(str(path), ['bbox', 'segm']), samples)))
    hook = CheckpointHook(save_best='auto')
    hook._init_rule([None], [first])
    assert (first, hook.rules) == ('coco/bbox_mAP', ['greater'])


def test_classes_of_one_name_keep_their_numbers(metric_type, data):
    path, content, samples = data
    content['categories'][1]['name'] = content['categories'][0]['name']
    path.write_text(json.dumps(content))
    found = run(metric_type(str(path), classwise=True), samples, ('dog', 'bird'))
    names = {name for name in found if name.endswith('_AP')} - {'coco/bbox_AP'}
    assert names == {f'coco/bbox_{name}_AP' for name in ('dog_2', 'dog_30', 'bird')}


def test_a_class_has_an_ap_of_its_boxes_and_one_of_its_masks(metric_type, data):
    path, _, samples = data
    metric = metric_type(str(path), ['bbox', 'segm'], classwise=True)
    found = run(metric, samples)
    for task, result in metric.record['results'].items():
        for row in result['classes']:
            name, ap = f'coco/{task}_{row["name"]}_AP', row['metrics']['AP']
            assert found[name] == (-1 if ap is None else ap)
    assert found['coco/bbox_dog_AP'] != found['coco/segm_dog_AP']


def predictions_of(images):
    """One process's share: images 0, 1, ... with masks of their own size and bytes."""
    from eca_mmdet.evaluation.metric import ImagePredictions

    return [
        ImagePredictions(
            image_id=image,
            boxes=np.full((count, 4), 10.0 * image + share),
            scores=np.full(count, share / 10),
            labels=np.full(count, image),
            masks=[b'%d' % image * (1 + image + i) for i in range(count)],
            mask_size=(5 + image, 7),
        )
        for image, count, share in images
    ]


def test_of_an_image_that_two_processes_have_the_first_counts(tmp_path):
    from eca_mmdet.datasets.ground_truth import read_ground_truth
    from eca_mmdet.evaluation.metric import merge, to_detections

    path = tmp_path / 'a.json'
    path.write_text(
        json.dumps(
            {
                'images': [
                    {'id': at, 'file_name': f'{at}.jpg', 'width': 7, 'height': 5 + at}
                    for at in range(3)
                ],
                'categories': [{'id': 9 - at, 'name': f'{at}'} for at in range(3)],
                'annotations': [],
            }
        )
    )
    truth = read_ground_truth(path)
    first = predictions_of([(2, 3, 1), (0, 1, 1)])
    second = predictions_of([(0, 2, 2), (1, 2, 2), (2, 1, 2)])
    merged = merge([first, second])
    assert [image.image_id for image in merged] == [2, 0, 1]
    boxes, notes = to_detections(merged, truth, 'bbox')
    assert boxes.image.tolist() == [2, 2, 2, 0, 1, 1] and not notes
    assert boxes.boxes[:, 0].tolist() == [21, 21, 21, 1, 12, 12]
    assert boxes.scores.tolist() == [0.1] * 4 + [0.2] * 2
    ids = [truth.category_ids[at] for at in boxes.category]
    assert ids == [7, 7, 7, 9, 8, 8] and boxes.masks is None
    found, notes = to_detections(merged, truth, 'segm')
    assert [*found.masks] == [
        *({'size': [7, 7], 'counts': b'2' * n} for n in (3, 4, 5)),
        {'size': [5, 7], 'counts': b'0'},
        *({'size': [6, 7], 'counts': b'1' * n} for n in (2, 3)),
    ]
    assert found.boxes is None and not notes


def test_masks_of_a_detector_without(metric_type, data):
    path, _, samples = data
    for sample in samples:
        del sample['pred_instances']['masks']
    with pytest.raises(UserError, match="gives boxes alone.*metric='bbox'"):
        run(metric_type(str(path), 'segm'), samples)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'metric': 'proposal'}, "'bbox', 'segm' or both; got 'proposal'"),
        ({'metric': []}, "'bbox', 'segm' or both"),
        ({'backend': 'fast'}, "backend must be one of .* got 'fast'"),
        ({'max_dets': (100, 10)}, 'max_dets must be ascending'),
        ({'format_only': True}, 'format_only=True needs outfile_prefix'),
        ({'ann_file': None}, "ann_file must name .* got None.*mmdet's CocoMetric"),
        ({'ann_file': ''}, "ann_file must name .* got ''"),
        ({'ann_file': {}}, 'ann_file must name .* got {}'),
    ],
)
def test_arguments_that_are_refused(metric_type, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric_type(**{'ann_file': 'A.json', **arguments})


def test_the_errors_are_those_of_the_same_detections(metric_type, data, tmp_path):
    from eca_mmdet.datasets.detections import read_results
    from eca_mmdet.datasets.ground_truth import read_ground_truth
    from eca_mmdet.evaluation.error_analysis import analyze

    path, _, samples = data
    prefix = str(tmp_path / 'saved')
    metric = metric_type(path, metric=['bbox', 'segm'], outfile_prefix=prefix)
    run(metric, samples)
    found = metric.analyze()
    assert list(found) == ['bbox', 'segm']
    truth = read_ground_truth(path)
    saved = read_results(f'{prefix}.segm.json', truth, ['segm']).found['segm']
    assert found['segm'] == analyze(truth, saved, 'segm')
    assert found['bbox']['pr_curves'] != found['segm']['pr_curves']
    assert metric.analyze() == {}  # the detections are let go


def test_errors_of_too_much_are_left_out(metric_type, data, monkeypatch):
    """Their memory could end a training; the numbers are there, and a line says so."""
    from mmengine.logging import MMLogger

    from eca_mmdet.evaluation import error_analysis as analysis

    path, _, samples = data
    pairs = {
        (sample['img_id'], int(label))
        for sample in samples
        for label in sample['pred_instances']['labels']
    }
    told = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', told.append)
    for limit, split in ((len(pairs), True), (len(pairs) - 1, False)):
        monkeypatch.setattr(analysis, 'MAX_PAIRS', limit)
        metric = metric_type(ann_file=str(path))
        assert run(metric, samples)['coco/bbox_AP'] > 0
        assert bool(metric.analyze()) == split
        assert bool(told) == (not split)
    assert f'{len(pairs)} pairs of an image and a class' in told[0]


def test_format_only_writes_results_and_the_servers_zip(metric_type, data, tmp_path):
    """As for test-dev: a file of images and categories without annotations."""
    path, content, samples = data
    expected = run(metric_type(str(path), ['bbox', 'segm']), samples)
    info = tmp_path / 'image_info_test-dev2017.json'
    del content['annotations']
    info.write_text(json.dumps(content))
    prefix = tmp_path / 'out' / 'my_eca'
    metric = metric_type(
        str(info), ['bbox', 'segm'], format_only=True, outfile_prefix=str(prefix)
    )
    assert run(metric, samples) == {} and metric.record is None
    from eca_mmdet.datasets.detections import detections_of
    from eca_mmdet.datasets.ground_truth import read_ground_truth
    from eca_mmdet.evaluation.coco_eval import evaluate

    truth = read_ground_truth(path)
    for task, field in (('bbox', 'bbox'), ('segm', 'segmentation')):
        entries = json.loads((tmp_path / 'out' / f'my_eca.{task}.json').read_text())
        keys = {'image_id', 'category_id', 'score', field}
        assert all(set(one) == keys for one in entries)
        again = evaluate(truth, detections_of(entries, truth)[task], task)
        for name, value in again.metrics.items():
            assert expected[f'coco/{task}_{name}'] == (-1 if value is None else value)
        name = 'detections_test-dev2017_my-eca_results'
        with zipfile.ZipFile(tmp_path / 'out' / task / f'{name}.zip') as archive:
            assert archive.namelist() == [f'{name}.json']
            assert json.loads(archive.read(f'{name}.json')) == entries
        assert sorted(f.name for f in (tmp_path / 'out' / task).iterdir()) == [
            f'{name}.zip'
        ]


SCRIPT = """
    import json, os, sys
    import torch.distributed as dist
    rank, world, path, store, split, out = sys.argv[1:]
    rank, world = int(rank), int(world)
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=world)
    import eca_mmdet
    eca_mmdet.registration.register()
    from eca_mmdet.evaluation import metric as coco_metric
    from eca_mmdet.evaluation.metric import ImagePredictions
    from tests.evaluation.test_metric import make_data, run
    samples = make_data()[1]
    shares = {
        'uneven': [samples[:6], samples[6:]],
        'padded': [samples[::2], samples[1::2] + samples[:1]],
        'one empty': [samples, []],
    }[split]
    sent = []
    from mmengine.evaluator import metric as base
    collect = base.collect_results
    base.collect_results = lambda results, *a, **k: (
        sent.extend(results), collect(results, *a, **k))[1]
    metric = coco_metric.CocoTableMetric(path, ['bbox', 'segm'])
    metrics = run(metric, shares[rank])
    [share] = sent
    assert {type(one) for one in share} <= {ImagePredictions}, sent
    with open(f'{out}.{rank}', 'w') as file:
        json.dump(metrics, file)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # now and then gloo's threads abort a process that ends by itself
"""


@pytest.mark.slow
@pytest.mark.parametrize('split', ['uneven', 'padded', 'one empty'])
def test_two_processes_give_the_numbers_of_one(metric_type, data, tmp_path, split):
    path, _, samples = data
    expected = run(metric_type(str(path), ['bbox', 'segm']), samples)
    script = tmp_path / 'script.py'
    script.write_text(textwrap.dedent(SCRIPT))
    rest = [str(path), str(tmp_path / 'store'), split, str(tmp_path / 'out')]
    workers = [
        subprocess.Popen(
            [PYTHON, str(script), str(rank), '2', *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
        )
        for rank in range(2)
    ]
    for worker in workers:
        out, _ = worker.communicate(timeout=180)
        assert worker.returncode == 0, out
    for rank in range(2):
        assert json.loads((tmp_path / f'out.{rank}').read_text()) == expected
