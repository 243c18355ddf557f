"""The page of a run: every number on it is that of its source."""

import base64
import hashlib
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from eca_mmdet.demo.run import compose
from eca_mmdet.inference.drawing import draw_objects
from eca_mmdet.reporting.page import render_page
from eca_mmdet.reporting.run import Options, read_run
from eca_mmdet.reporting.sections import images
from eca_mmdet.reporting.sections.model import COSTS, flat
from tests.support.report_runs import STAMP, STEPS, Page, losses, write_run

NAME = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'


@pytest.fixture(scope='module')
def checkpoint(mmdet_ready, shapes, tmp_path_factory):
    """A tiny detector as mmengine saves it, and the text of its config."""
    import torch
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    cfg = compose('mask', 'eca', 18, shapes, 0)
    cfg.model.backbone.base_channels = 8
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    model = MODELS.build(cfg.model)
    path = tmp_path_factory.mktemp('weights') / 'iter_60.pth'
    meta = {
        'cfg': cfg.pretty_text,
        'dataset_meta': {'classes': ('circle', 'square', 'triangle')},
    }
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, path)
    return path, cfg


@pytest.fixture(scope='module')
def one(shapes, checkpoint, tmp_path_factory):
    """A run folder, its metrics.json, and its page."""
    path, cfg = checkpoint
    folder = tmp_path_factory.mktemp('runs') / 'first'
    record = write_run(folder, shapes, 0, cfg.pretty_text, path, NAME)
    shutil.copy(path, folder)
    # As if it were measured on val2017, for which numbers are published.
    for result in record['results'].values():
        result['counts'] |= {'images': 5000, 'categories': 80}
    (folder / STAMP / 'metrics.json').write_text(json.dumps(record))
    runs = read_run(folder, 'first')
    text = render_page(runs, Options(examples=2, gate_images=3, model=True))
    (folder / 'report.html').write_text(text)
    return folder, record, Page(text), runs[0]


@pytest.fixture(scope='module')
def two(one, shapes, checkpoint, tmp_path_factory):
    """A second run beside the first: other numbers, another learning rate."""
    folder = tmp_path_factory.mktemp('runs') / 'second'
    text = checkpoint[1].pretty_text.replace('lr=0.002', 'lr=0.004')
    record = write_run(folder, shapes, 1, text, name=NAME)
    runs = read_run(one[0], 'first') + read_run(folder, 'second')
    return record, Page(render_page(runs))


def shown(value):
    return 'n/a' if value is None else f'{100 * value:.1f}'


def points(page, chart, index=0):
    return [tuple(one) for one in page.specs[chart]['lines'][index]['points']]


def near(pairs):
    return [(x, pytest.approx(y, rel=1e-5)) for x, y in pairs]


def test_the_tables_are_metrics_json_and_the_published_row(one):
    _, record, page, _ = one
    for task, title in (('bbox', 'box'), ('segm', 'mask')):
        rows = page.results(task)
        assert list(rows) == ['first', 'mask:r50:eca, reported']
        metrics = record['results'][task]['metrics']
        assert rows['first'] == {name: shown(v) for name, v in metrics.items()}
        # As the paper's table has it, and its authors' README.
        reported = {'box': '39.0', 'mask': '35.6'}[title]
        assert rows['mask:r50:eca, reported']['AP'].startswith(reported)
        assert rows['mask:r50:eca, reported']['ARL'] == ''  # nobody published it
        for name in ('AP', 'AP50'):
            at = page.texts.index(f'{title} {name}')
            assert page.texts[at - 1] == shown(metrics[name])


def test_two_runs_have_a_row_each_and_their_difference(one, two):
    first, second = one[1], two[0]
    for task in ('bbox', 'segm'):
        numbers = [record['results'][task]['metrics'] for record in (first, second)]
        rows = two[1].results(task)
        label = 'difference (second - first)'
        assert list(rows) == ['first', 'second', label, 'mask:r50:eca, reported']
        for name in numbers[0]:
            left, right = (metrics[name] for metrics in numbers)
            assert rows['first'][name] == shown(left)
            assert rows['second'][name] == shown(right)
            if left is None:
                assert rows[label][name] == 'n/a'
            else:
                # rounded as the difference, not as its ends
                assert rows[label][name] == f'{100 * (right - left) + 0.0:+.1f}'
        title = {'bbox': 'box', 'segm': 'mask'}[task]
        change = 100 * (numbers[1]['AP'] - numbers[0]['AP'])
        where = 'below' if change < 0 else 'above'
        expected = f'second is {abs(change):.1f} {title} AP {where} first'
        assert expected in two[1].texts  # drawn from no samples: without an interval


def test_differences_by_class_are_sorted(one, two):
    first, second = (
        {c['name']: c for c in record['results']['segm']['classes']}
        for record in (one[1], two[0])
    )
    rows = two[1].table(class_='changes', task='segm', run='second')
    assert rows[0] == ['class', 'id', 'objects', 'AP first', 'AP second', 'difference']
    changes = {
        name: second[name]['metrics']['AP'] - first[name]['metrics']['AP']
        for name in first
    }
    order = sorted(changes, key=lambda name: -abs(changes[name]))
    assert [row[0] for row in rows[1:]] == order
    for name, id_, objects, left, right, change in rows[1:]:
        assert (id_, objects) == (str(first[name]['id']), str(first[name]['objects']))
        assert left == shown(first[name]['metrics']['AP'])
        assert right == shown(second[name]['metrics']['AP'])
        assert change == f'{100 * changes[name]:+.1f}'


def test_numbers_of_other_data_have_no_published_ones_beside_them(
    two, shapes, tmp_path
):
    record = write_run(tmp_path / 'run', shapes, 0, name=NAME)
    assert record['config'] == NAME
    page = Page(render_page(read_run(tmp_path / 'run', 'run')))
    assert list(page.results()) == ['run']


def test_precision_recall_and_f1_over_the_score(one, two):
    _, record, page, _ = one
    for task in ('bbox', 'segm'):
        curves = record['analysis'][0][task]['score_curves']
        spec = page.specs[f'scores-{task}']
        for index, key in enumerate(('f1', 'precision', 'recall')):
            expected = zip(curves['scores'], curves[key], strict=True)
            assert points(page, f'scores-{task}', index) == [
                (x, None if y is None else pytest.approx(y, rel=1e-5))
                for x, y in expected
            ]
        best = curves['best']
        assert spec['title'].endswith(
            f'best F1 {best["f1"]:.2f} at score {best["score"]:.2f}'
        )
        rows = page.table(class_='best', task=task)[1:]
        found = [c for c in curves['classes'] if c['f1']]
        assert [row[0] for row in rows] == [c['name'] for c in found]
        assert [row[2] for row in rows] == [f'{c["score"]:.2f}' for c in found]
        assert len(two[1].specs[f'scores-{task}']['lines']) == 6


def test_training_curves_are_the_logged_values(one, two):
    page = two[1]
    for at, seed in enumerate((0, 1)):
        logged = [line for line in losses(seed) if 'loss' in line]
        for name in (
            'loss',
            'lr',
            'loss_cls',
            'loss_bbox',
            'time',
            'grad_norm',
            'memory',
        ):
            chart = page.specs[f'train-{name}']
            assert [line['name'] for line in chart['lines']] == ['first', 'second']
            assert points(page, f'train-{name}', at) == near(
                (line['step'], line[name]) for line in logged
            )
        validated = [line for line in losses(seed) if 'coco/bbox_AP' in line]
        for index, name in enumerate(('AP', 'AP50', 'AP75')):
            assert points(page, 'ap-bbox', 3 * at + index) == near(
                (line['step'], 100 * line[f'coco/bbox_{name}']) for line in validated
            )
    assert 'train-loss_bbox' in page.specs and 'train-step' not in page.specs


def test_facts_of_the_training(one):
    _, record, page, _ = one
    logged = [line for line in losses(0) if 'loss' in line]
    texts = page.texts
    facts = {
        'iterations': str(STEPS[-1]),
        'highest GPU memory': f'{max(line["memory"] for line in logged)} MiB',
        'last loss': f'{logged[-1]["loss"]:.4g}',
        'measured after': 'iter 60',
        'config': NAME,
    }
    for name, value in facts.items():
        assert texts[texts.index(name) + 1] == value
    median = np.median([line['time'] for line in logged])
    assert texts[texts.index('an iteration, median') + 1] == f'{median:.3g} s'
    counts = record['results']['bbox']['counts']
    data = texts[texts.index('data') + 1]
    assert data.startswith('5,000 images, 80 categories, ')
    assert f'{counts["detections"]} detections' in data
    assert 'one note' in texts


def test_precision_and_recall(one):
    _, record, page, _ = one
    for task in ('bbox', 'segm'):
        curves = record['analysis'][0][task]['pr_curves']
        for index, name in enumerate(('0.50:0.95', '0.50', '0.75')):
            expected = zip(curves['recall'], curves[name], strict=True)
            assert points(page, f'pr-{task}', index) == near(expected)


def test_classes_are_sorted_and_counted(one, two):
    record = one[1]
    for task in ('bbox', 'segm'):
        chart = one[2].specs[f'classes-{task}']
        classes = record['results'][task]['classes']
        ranked = sorted(classes, key=lambda c: -c['metrics']['AP'])
        assert chart['categories'] == [f'{c["name"]} ({c["objects"]})' for c in ranked]
        assert chart['bars'][0]['values'] == [
            pytest.approx(100 * c['metrics']['AP'], rel=1e-5) for c in ranked
        ]
        both = two[1].specs[f'classes-{task}']
        other = {
            c['name']: c['metrics']['AP'] for c in two[0]['results'][task]['classes']
        }
        assert both['bars'][1]['values'] == [
            pytest.approx(100 * other[c['name']], rel=1e-5) for c in ranked
        ]


def test_sizes_errors_and_calibration(one):
    _, record, page, _ = one
    for task in ('bbox', 'segm'):
        metrics = record['results'][task]['metrics']
        sizes = page.specs[f'sizes-{task}']
        names = [f'{kind}{size}' for kind in ('AP', 'AR') for size in 'SML']
        expected = [metrics[name] for name in names]
        assert sizes['bars'][0]['values'] == [
            None if v is None else pytest.approx(100 * v, rel=1e-5) for v in expected
        ]
        analysis = record['analysis'][0][task]
        cost = analysis['errors']['delta_ap']
        errors = page.specs[f'errors-{task}']
        assert errors['categories'] == ['Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss']
        assert errors['glosses'][0] == 'wrong class'
        assert errors['bars'][0]['values'] == [
            pytest.approx(100 * cost[key], rel=1e-5) for key in errors['categories']
        ]
        bins = [one for one in analysis['calibration']['bins'] if one['count']]
        assert points(page, f'calibration-{task}') == [
            (
                pytest.approx(one['avg_confidence'], rel=1e-5),
                pytest.approx(one['avg_accuracy'], rel=1e-5),
            )
            for one in bins
        ]
        line = page.specs[f'calibration-{task}']['lines'][0]
        assert line['notes'] == [f'{one["count"]} detections' for one in bins]
        assert line['name'] == f'first: ECE {analysis["calibration"]["ece"]:.3f}'


def test_confusion_matrix(one):
    folder, record, page, _ = one
    for task in ('bbox', 'segm'):
        recorded = record['analysis'][0][task]['confusion']
        rows = page.table(class_='confusion', task=task)
        assert rows[0][1:] == recorded['classes']
        assert [row[0] for row in rows[1:]] == recorded['classes']
        assert [[int(cell or 0) for cell in row[1:]] for row in rows[1:]] == (
            recorded['matrix']
        )
    shares = []
    for task in ('bbox', 'segm'):
        matrix = np.array(record['analysis'][0][task]['confusion']['matrix'])
        shares += list(
            (matrix / np.maximum(matrix.sum(1, keepdims=True), 1))[matrix > 0]
        )
    shown = re.findall(r'style="--v:([0-9.]+)"', (folder / 'report.html').read_text())
    assert shown == [f'{share:.3f}' for share in shares]


def test_worst_and_best_images(one, shapes):
    """Their numbers are the record's; the pictures differ from the files by drawing."""
    _, record, page, _ = one
    analysis = record['analysis'][0]['segm']
    worst = analysis['worst_images'][:2]
    taken = [one['image_id'] for one in worst]
    best = [o for o in analysis['best_images'] if o['image_id'] not in taken][:2]
    assert len(worst + best) == 4
    names = [image['alt'] for image in page.images]
    expected = [
        f'{what} {one["file_name"]}'
        for one in worst + best
        for what in ('ground truth of', 'detections in')
    ]
    assert names == expected
    for one in worst + best:
        line = (
            f'F1 {one["f1"]:.2f}: {one["tp"]} right, {one["fp"]} wrong, '
            f'{one["fn"]} missed'
        )
        assert page.texts[page.texts.index(one['file_name']) + 1] == line
    for image, entry in zip(page.images[::2], worst + best, strict=True):
        data = base64.b64decode(image['src'].partition('base64,')[2])
        drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert (
            drawn.shape[:2] == (320, 320) == (int(image['height']), int(image['width']))
        )
        plain = cv2.imread(str(shapes / 'val' / entry['file_name']))
        small = cv2.resize(drawn, plain.shape[1::-1], interpolation=cv2.INTER_AREA)
        changed = np.abs(small.astype(int) - plain).max(2) > 40
        assert 0.01 < changed.mean() < 0.6


def test_gates_are_those_of_the_checkpoint(one, checkpoint):
    import torch

    _, _, page, run = one
    gates = run.gates['checkpoints'][0]['gates']
    rows = page.table(class_='gates', run='first')
    assert [row[0] for row in rows[1:]] == [gate['name'] for gate in gates]
    column = rows[0].index('mean')
    for row, gate in zip(rows[1:], gates, strict=True):
        assert row[column] == f'{np.mean(gate["mean"]):.3f}'
        assert row[rows[0].index('dead')] == str(gate['dead'])
    state = torch.load(checkpoint[0], weights_only=True)['state_dict']
    for name, weights in page.table(class_='kernels', run='first'):
        kernel = state[f'{name}.conv.weight'].flatten().tolist()
        assert weights == ' '.join(f'{weight:.3f}' for weight in kernel)
    last = [gate for gate in gates if gate['block'] == 1]
    for index, gate in enumerate(last):
        chart = page.specs[f'gates-{index}']
        assert chart['title'] == gate['name']
        for line in chart['lines']:
            values = gate['by_class'][line['name']] - np.mean(
                list(gate['by_class'].values()), axis=0
            )
            assert [y for _, y in line['points']] == pytest.approx(values, rel=1e-4)
    means = [value for gate in gates for value in gate['mean']]
    [text] = [text for text in page.texts if text.startswith('Channel means')]
    assert f'within {min(means):.3f} to {max(means):.3f}; classes' in text
    widths = [max(gate['mean']) - min(gate['mean']) for gate in gates]  # of 0 to 1
    assert ('No gate tells' in text) == (max(widths) < 0.1)


def test_costs_are_those_of_complexity(one, command, tmp_path, checkpoint):
    """By the command, on the config as a file."""
    page = one[2]
    config = tmp_path / 'config.py'
    config.write_text(checkpoint[1].pretty_text)
    code, out, _ = command('cost', config, '--shape', 160, 160, '--json')
    assert code == 0
    [found] = json.loads(out)['exact']
    [rows] = [rows for a, c, rows in page.tables if 'input 160 x 160' in c[0]]
    parts = {
        **found['parts'],
        'total': found['total'],
        'of it the gates': found['gates'],
    }
    assert [row[0] for row in rows[1:]] == list(parts)
    for row in rows[1:]:
        part = parts[row[0]]
        assert row[1:] == [
            f'{part["params"]:,}',
            f'{part["trained"]:,}',
            f'{part["macs"] / 1e9:.3f}',
            f'{part["saved_bytes"] / 2**20:.1f}',
        ]


def test_the_flat_config_has_every_value(one, two, checkpoint):
    rows = dict(one[2].table(class_='flat'))

    def leaves(value, path=()):
        if isinstance(value, dict) and value:
            for key, part in value.items():
                yield from leaves(part, (*path, key))
        elif isinstance(value, (list, tuple)) and any(
            isinstance(v, dict) for v in value
        ):
            for index, part in enumerate(value):
                yield from leaves(part, (*path[:-1], f'{path[-1]}[{index}]'))
        else:
            yield '.'.join(map(str, path)), repr(value)

    assert rows == dict(leaves(checkpoint[1].to_dict()))
    assert len(rows) > 200
    [differing] = [
        r for a, c, r in two[1].tables if a.get('id') == 'config-differences'
    ]
    assert differing[1:] == [['optim_wrapper.optimizer.lr', '0.002', '0.004']]


def test_checksums_and_environment(one, shapes):
    folder, record, page, _ = one
    rows = page.table(class_='sums')[1:]
    inner = folder / STAMP
    expected = {
        'annotations': (shapes / 'annotations' / 'val.json', 'unchanged since'),
        'checkpoint': (folder / 'iter_60.pth', 'unchanged since'),
        'metrics': (inner / 'metrics.json', 'summed now'),
        'config': (inner / 'vis_data' / 'config.py', 'summed now'),
    }
    assert len(rows) == len(expected)
    for what, (path, state) in expected.items():
        [row] = [row for row in rows if row[0].startswith(what)]
        assert row[1:] == [hashlib.sha256(path.read_bytes()).hexdigest(), state]
    assert dict(page.table(class_='versions')) == record['versions']
    [machine] = [text for text in page.texts if 'Test Board 3000' in text]
    assert 'GCC' in machine and 'seed' not in machine


def test_the_page_is_in_one_file(one):
    page = one[2]
    assert page.links and all(re.match(r'data:|#', link) for link in page.links)
    text = (one[0] / 'report.html').read_text()
    assert 'http-equiv="Content-Security-Policy"' in text
    assert not re.search(r'@import|url\(|sourceMappingURL', text)
    assert len(text) < 2**20
    assert 'What this page could not show' not in text


@pytest.mark.parametrize(
    'model',
    [
        "dict(type='subprocess.call', args={words!r}, shell=True)",
        "dict(type='mmengine.dump', obj=1, file={marker!r})",
        "dict(type='LAD', teacher_ckpt={marker!r})",
    ],
    ids=lambda text: text[10:25],
)
def test_a_config_of_other_code_is_not_built(mmdet_ready, shapes, tmp_path, model):
    marker = tmp_path / 'ran.json'
    text = model.format(words=f'touch {marker}', marker=str(marker))
    write_run(tmp_path / 'run', shapes, config=f'model = {text}\n')
    [run] = read_run(tmp_path / 'run', 'run')
    assert COSTS.context([run], Options(model=True)) is None and not marker.exists()
    [told] = [line for line in run.missing if line.startswith('costs: ')]
    assert 'which is no part of an image detector' in told and '--config' not in told


@pytest.mark.parametrize(
    'text',
    [
        "model = dict(type='ResNet', depth=50)",
        "model = dict(type='FasterRCNN')",
        'model = 5',
        'a = 1',
        "model = dict(type='ResNet', depth=50)\ntest_dataloader = dict(pipeline=5)",
        "filename = 'x'",
        'default_scope = 5',
    ],
)
def test_a_config_that_cannot_be_counted_is_told(mmdet_ready, shapes, tmp_path, text):
    write_run(tmp_path / 'run', shapes, config=f'{text}\n')
    [run] = read_run(tmp_path / 'run', 'run')
    assert COSTS.context([run], Options(model=True)) is None
    assert any(line.startswith('costs: ') for line in run.missing)
    assert dict(flat(run.config))  # and it is shown as it was


def test_objects_are_drawn_where_they_are():
    """A box and a mask of a 40 x 20 image on its picture of 320 x 160."""
    from pycocotools import mask as api

    image = np.full((20, 40, 3), 200, np.uint8)
    canvas, scale = images.fit(image)
    assert canvas.shape == (160, 320, 3) and scale == 8
    mask = np.zeros((20, 40), np.uint8, order='F')
    mask[5:15, 10:30] = 1
    drawn = images._draw(
        canvas, scale, [[10, 5, 20, 10]], [2], ['name'], [api.encode(mask)]
    )
    large = np.zeros((1, 160, 320), bool)
    large[0, 40:120, 80:240] = True
    box = np.array([[80.0, 40, 240, 120]])
    assert (drawn == draw_objects(canvas, box, np.array([2]), ['name'], large)).all()
    assert (drawn[:20] == 200).all() and not (drawn[40:120, 80:240] == 200).all()


def test_detections_have_their_own_names_and_boxes(one, monkeypatch):
    """What is handed to the drawing, for the worst image."""
    folder, record, _, _ = one
    calls = []
    monkeypatch.setattr(images, '_draw', lambda *words: calls.append(words) or words[0])
    [run] = read_run(folder, 'first')
    images.IMAGES.context([run], Options(examples=1))
    worst = record['analysis'][0]['segm']['worst_images'][0]
    content = json.loads(open(record['annotations']['file']).read())
    names = {one['id']: one['name'] for one in content['categories']}
    objects = [a for a in content['annotations'] if a['image_id'] == worst['image_id']]
    (_, _, boxes, _, texts, _), (_, _, _, _, found, masks) = calls[:2]
    assert sorted(texts) == sorted(names[one['category_id']] for one in objects)
    assert sorted(map(list, boxes)) == sorted(one['bbox'] for one in objects)
    assert found == [
        f'{names[one["category_id"]]} {one["score"]:.2f}' for one in worst['detections']
    ]
    assert masks == [one['segmentation'] for one in worst['detections']]


def test_an_image_is_among_the_worst_or_the_best():
    ranked = [{'image_id': number} for number in range(5)]
    found = {'worst_images': ranked, 'best_images': ranked[::-1]}
    (_, worst), (_, best) = images._chosen(found, 3)
    assert [one['image_id'] for one in worst] == [0, 1, 2]
    assert [one['image_id'] for one in best] == [4, 3]
