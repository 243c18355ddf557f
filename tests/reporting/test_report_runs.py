"""Runs of which parts are missing, resumed, old or several."""

import json
import math
import os
import subprocess

import pytest

from eca_mmdet.reporting.page import report
from eca_mmdet.reporting.run import read_run
from eca_mmdet.reporting.sections import MOST_POINTS, line
from eca_mmdet.reporting.sections.images import find_images
from eca_mmdet.reporting.sections.model import files_of
from eca_mmdet.utils.errors import UserError
from tests.conftest import PYTHON
from tests.support.log_cases import RESUMED
from tests.support.report_runs import (
    STAMP,
    Page,
    detections,
    losses,
    measured,
    page_of,
    write_run,
)


def test_a_run_without_evaluation(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'run' / STAMP / 'metrics.json').unlink()
    page, [run] = page_of(tmp_path / 'run')
    assert 'train-loss' in page.specs and 'ap-bbox' in page.specs
    assert not any(name.startswith(('pr-', 'classes-')) for name in page.specs)
    told = [line for line in run.missing if 'no metrics.json' in line]
    assert told and told[0] in page.texts


def test_a_run_without_training(tmp_path, shapes, coco_file):
    (tmp_path / 'run').mkdir()
    record = measured(coco_file, json.loads(coco_file.read_text()), 0)
    (tmp_path / 'run' / 'metrics.json').write_text(json.dumps(record))
    page, [run] = page_of(tmp_path / 'run')
    assert 'pr-bbox' in page.specs and 'train-loss' not in page.specs
    assert any('curves of training' in line for line in run.missing)


@pytest.fixture
def coco_file(shapes):
    return shapes / 'annotations' / 'val.json'


def test_a_log_alone(tmp_path):
    path = tmp_path / '20260101_000000.json'
    lines = []
    for epoch, ap in ((1, 0.25), (2, 0.5)):
        for step in (100 * epoch - 50, 100 * epoch):
            lines.append({'epoch': epoch, 'iter': step, 'loss': 2, 'step': step})
        lines.append({'coco/bbox_mAP': ap, 'time': 0.1, 'step': epoch})
    path.write_text('\n'.join(map(json.dumps, lines)))
    page, _ = page_of(path)
    assert page.specs['train-loss']['lines'][0]['points'] == [
        *([50, 2], [100, 2], [150, 2], [200, 2])
    ]
    assert page.specs['ap-bbox']['lines'][0]['points'] == [[100, 25], [200, 50]]
    assert any('a log file has none' in text for text in page.texts)


def test_infinite_and_missing_values_are_gaps(tmp_path, shapes):
    log = [
        {'loss': 2.0, 'lr': 0.1, 'iter': 10, 'step': 10},
        {'coco/bbox_AP': 0.5, 'step': 10},
        {'loss': math.nan, 'lr': 0.1, 'iter': 20, 'step': 20},
        {'loss': math.inf, 'lr': 0.1, 'iter': 30, 'step': 30},
        {'coco/bbox_AP': -1.0, 'step': 30},
    ]
    write_run(tmp_path / 'run', shapes, log=log)
    page, _ = page_of(tmp_path / 'run')
    points = page.specs['train-loss']['lines'][0]['points']
    assert points == [[10, 2], [20, None], [30, None]]
    assert page.specs['ap-bbox']['lines'][0]['points'] == [[10, 50], [30, None]]
    assert page.texts[page.texts.index('last loss') + 1] == 'inf'


def test_a_resumed_run_has_no_doubled_steps(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes, log=losses(0))
    later = tmp_path / 'run' / '20260102_040000' / 'vis_data'
    later.mkdir(parents=True)
    again = [{**one, 'loss': 7.0} for one in losses(0) if one['step'] >= 40]
    again = [one for one in again if 'lr' in one]
    (later / 'scalars.json').write_text('\n'.join(map(json.dumps, again)))
    text = later.parent / '20260102_040000.log'
    text.write_text(RESUMED.replace('iter: 20', 'iter: 30'))
    page, _ = page_of(tmp_path / 'run')
    points = page.specs['train-loss']['lines'][0]['points']
    assert [x for x, _ in points] == [10, 20, 30, 40, 50, 60]
    assert [y for _, y in points][3:] == [7, 7, 7] and points[2][1] != 7


def test_the_newest_numbers_count(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    record = json.loads(path.read_text())
    record['results']['bbox']['metrics']['AP'] = 0.123
    older = {**record, 'date': '2020' + record['date'][4:]}
    (tmp_path / 'run' / 'metrics.json').write_text(json.dumps(older))
    newer = {**record, 'date': '2099' + record['date'][4:]}
    newer['results']['bbox']['metrics']['AP'] = 0.456
    (tmp_path / 'run' / '20260303_000000').mkdir()
    (tmp_path / 'run' / '20260303_000000' / 'metrics.json').write_text(
        json.dumps(newer)
    )
    page, _ = page_of(tmp_path / 'run')
    assert page.results()['run']['AP'] == '45.6'


def test_several_result_files_of_one_evaluation(tmp_path, shapes, coco_file):
    content = json.loads(coco_file.read_text())
    first = measured(
        coco_file, content, 0, predictions={'file': 'x/a.json', 'sha256': ''}
    )
    second = measured(coco_file, content, 1)
    other = {
        'predictions': {'file': 'x/b.json', 'sha256': ''},
        'results': second['results'],
    }
    record = {**first, 'others': [other]}
    record['analysis'] = first['analysis'] + second['analysis']
    (tmp_path / 'metrics.json').write_text(json.dumps(record))
    page, runs = page_of(tmp_path)
    name = tmp_path.name
    assert [run.label for run in runs] == [f'{name}: a', f'{name}: b']
    rows = page.results()
    assert page.runs() == [f'{name}: a', f'{name}: b']
    values = [one['results']['bbox']['metrics']['AP'] for one in (first, second)]
    assert [rows[label]['AP'] for label in page.runs()] == [
        f'{100 * value:.1f}' for value in values
    ]
    assert len(page.specs['pr-bbox']['lines']) == 6


def signed(value):
    return 'n/a' if value is None else f'{100 * value + 0.0:+.1f}'


def test_a_page_of_two_result_files_keeps_difference_and_intervals(
    tmp_path, coco_file, command
):
    content = json.loads(coco_file.read_text())
    files = []
    for seed, name in enumerate('ab'):
        files.append(tmp_path / f'{name}.json')
        files[-1].write_text(json.dumps(detections(content, seed)))
    run, page = tmp_path / 'run', tmp_path / 'page.html'
    words = ['--ann', coco_file, '--results', *files, '--bootstrap', '20', '--out', run]
    assert command('eval', *words)[0] == 0
    record = json.loads((run / 'metrics.json').read_text())
    [other] = record['others']
    for old in (False, True):
        if old:  # as written before intervals of classes were
            for minus in other['minus_first'].values():
                del minus['classes']
            (run / 'metrics.json').write_text(json.dumps(record))
        assert command('report', run, '--out', page, '--no-model')[0] == 0
        found = Page(page.read_text())
        for task, title in (('bbox', 'box'), ('segm', 'mask')):
            minus = other['minus_first'][task]
            rows = found.results(task)
            names = ('difference (run: b - run: a)', '95% CI low', '95% CI high')
            assert list(rows) == ['run: a', 'run: b', *names]
            for label, key in zip(names, ('metrics', 'low', 'high'), strict=True):
                assert rows[label] == {k: signed(v) for k, v in minus[key].items()}
            ends = (
                f'{100 * minus["low"]["AP"]:+.1f} to {100 * minus["high"]["AP"]:+.1f}'
            )
            [verdict] = [t for t in found.texts if f' {title} AP ' in t and ends in t]
            assert verdict.startswith('run: b is ')
            heads, *cells = found.table(class_='changes', task=task)
            assert heads[6:] == ([] if old else ['95% CI low', '95% CI high'])
            by_name = {one['name']: one for one in minus.get('classes', ())}
            for row in () if old else cells:
                one = by_name[row[0]]
                keys = ('metrics', 'low', 'high')
                assert row[5:] == [signed(one[key]['AP']) for key in keys]
            assert len(cells) == len(content['categories'])


def test_result_files_of_one_name_are_told_apart(tmp_path, coco_file, command):
    content = json.loads(coco_file.read_text())
    for folder in ('x', 'y'):
        (tmp_path / folder).mkdir()
        record = measured(coco_file, content, 0)
        record['others'] = [{**record, 'predictions': {'file': 'b.json'}}]
        (tmp_path / folder / 'metrics.json').write_text(json.dumps(record))
    out = tmp_path / 'page.html'
    words = [tmp_path / 'x', tmp_path / 'y', '--out', out, '--no-model']
    assert command('report', *words)[0] == 0
    assert Page(out.read_text()).runs() == ['x: results', 'x: b', 'y: results', 'y: b']


def test_numbers_of_an_earlier_training_are_told(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    _, [run] = page_of(tmp_path / 'run')
    assert not any('before it' in line for line in run.missing)
    later = tmp_path / 'run' / '20270101_000000' / 'vis_data'
    later.mkdir(parents=True)
    (later / 'config.py').write_text('a = 1\n')
    (later / 'scalars.json').write_text(json.dumps({'loss': 9, 'iter': 1, 'step': 1}))
    _, [run] = page_of(tmp_path / 'run')
    assert run.log.train['loss'].values == (9,)
    [told] = [line for line in run.missing if 'before it' in line]
    assert STAMP in told and '20270101_000000' in told


def data_set(root, split, annotations='annotations/val.json'):
    return (
        f'dict(dataset=dict(data_root={str(root)!r}, ann_file={annotations!r}, '
        f"data_prefix=dict(img='{split}/')))"
    )


def test_images_are_those_of_the_measured_annotations(tmp_path, shapes):
    """A test data set of other annotations, with images of the same names."""
    config = (
        f'test_dataloader = {data_set(shapes, "train", "annotations/train.json")}\n'
    )
    write_run(tmp_path / 'a', shapes, config=config)
    [run] = read_run(tmp_path / 'a', 'a')
    with pytest.raises(UserError) as error:
        find_images(run, None)
    assert error.value.code == 'no-images'
    assert find_images(run, str(shapes / 'val')) == shapes / 'val'
    config += f'val_dataloader = {data_set(shapes, "val")}\n'
    write_run(tmp_path / 'b', shapes, config=config)
    [run] = read_run(tmp_path / 'b', 'b')
    assert find_images(run, None) == shapes / 'val'
    wrapped = config.replace('dataset=dict(', "dataset=dict(type='X', dataset=dict(")
    wrapped = wrapped.replace(')))', '))))')
    write_run(tmp_path / 'c', shapes, config=wrapped)
    [run] = read_run(tmp_path / 'c', 'c')
    assert find_images(run, None) == shapes / 'val'


def test_the_checkpoint_is_the_measured_one(tmp_path, shapes, monkeypatch):
    """Not one of that name in the current folder, nor one written since."""
    weights = tmp_path / 'train' / 'iter_60.pth'
    weights.parent.mkdir()
    weights.write_bytes(b'measured')
    monkeypatch.chdir(tmp_path)
    record = write_run(
        tmp_path / 'run', shapes, checkpoint=weights.relative_to(tmp_path)
    )
    assert record['checkpoint']['file'] == 'train/iter_60.pth'
    (tmp_path / 'run' / 'iter_60.pth').write_bytes(b'measured')
    weights.write_bytes(b'others')
    [run] = read_run(tmp_path / 'run', 'run')
    assert run.checkpoint == tmp_path / 'run' / 'iter_60.pth'
    assert [one['state'] for one in files_of(run)][1] == 'unchanged since'
    run.checkpoint.write_bytes(b'trained on')
    [run] = read_run(tmp_path / 'run', 'run')
    assert run.checkpoint is None
    assert any('is not what was measured' in line for line in run.missing)
    assert [one['state'] for one in files_of(run)][1] == 'CHANGED since'
    weights.unlink()
    assert [one['state'] for one in files_of(run)][1] == 'no longer there'


def test_other_annotations_are_told(tmp_path, shapes):
    for name in ('a', 'b'):
        write_run(tmp_path / name, shapes)
    page, _ = page_of(tmp_path / 'a', tmp_path / 'b')
    assert not any('do not compare' in text for text in page.texts)
    path = tmp_path / 'b' / STAMP / 'metrics.json'
    record = json.loads(path.read_text())
    record['annotations']['sha256'] = '0' * 64
    path.write_text(json.dumps(record))
    page, _ = page_of(tmp_path / 'a', tmp_path / 'b')
    assert any('do not compare' in text for text in page.texts)


def test_runs_are_named_by_as_much_of_the_path_as_it_takes(tmp_path, shapes, command):
    for parent in ('a', 'b'):
        write_run(tmp_path / parent / 'run', shapes)
    out = tmp_path / 'page.html'
    folders = [tmp_path / parent / 'run' for parent in ('a', 'b')]
    assert command('report', *folders, '--out', out, '--no-model')[0] == 0
    assert Page(out.read_text()).runs() == ['a/run', 'b/run']
    words = ['--labels', 'new', 'old']
    assert command('report', *folders, '--out', out, '--no-model', *words)[0] == 0
    assert Page(out.read_text()).runs() == ['new', 'old']


WITHOUT_MMDET = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmdet', 'mmengine', 'mmcv', 'torch'):
            raise ImportError(name)
sys.meta_path.insert(0, Nothing())
from eca_mmdet.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_page_without_the_detector_needs_no_mmdet(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    words = ['report', str(tmp_path / 'run'), '--no-model']
    words += ['--images', str(shapes / 'val')]
    done = subprocess.run(
        [PYTHON, '-c', WITHOUT_MMDET, *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout[:6]) == (0, 'page: '), done.stderr
    assert Page((tmp_path / 'run' / 'report.html').read_text()).images


def test_the_function_returns_the_page_and_what_is_missing(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    for replaced in (False, True):
        page = report(tmp_path / 'run', model=False, examples=0)
        assert os.fspath(page) == str(page.path) == f'{tmp_path}/run/report.html'
        assert page.replaced == replaced
        assert page.missing == {
            'run': [
                'the config: mmengine left none in the folder',
                'gates: no checkpoint is in the folder',
            ]
        }
    assert Page(page.path.read_text()).specs


def test_long_lines_keep_their_spikes():
    values = [1.0] * 50_000
    values[12_345], values[40_000] = 99.0, -5.0
    values[77] = math.nan
    kept = line('loss', enumerate(values), 0)['points']
    assert len(kept) <= MOST_POINTS + 2
    assert [12_345, 99.0] in kept and [40_000, -5.0] in kept
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    short = line('loss', enumerate(values[:100]), 0)['points']
    assert len(short) == 100 and short[77] == [77, None]


def test_many_classes_show_both_ends(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    record = json.loads(path.read_text())
    record['results']['bbox']['classes'] = [
        {'id': n, 'name': f'c{n}', 'objects': n, 'metrics': {'AP': n / 2000}}
        for n in range(1203)
    ]
    path.write_text(json.dumps(record))
    page, _ = page_of(tmp_path / 'run')
    chart = page.specs['classes-bbox']
    assert chart['title'].endswith('the 240 best and the 240 worst of 1203')
    assert chart['categories'][:2] == ['c1202 (1202)', 'c1201 (1201)']
    assert chart['categories'][239:241] == ['c963 (963)', 'c239 (239)']
    assert chart['categories'][-1] == 'c0 (0)' and len(chart['categories']) == 480


def test_learning_rates_of_several_groups(tmp_path, shapes):
    log = [
        {
            'loss': 1.0,
            'lr_backbone': 0.1 / step,
            'lr_head': 0.2,
            'iter': step,
            'step': step,
        }
        for step in (10, 20)
    ]
    write_run(tmp_path / 'run', shapes, log=log)
    page, _ = page_of(tmp_path / 'run')
    assert page.specs['train-lr_backbone']['y'] == 'learning rate'
    points = page.specs['train-lr_backbone']['lines'][0]['points']
    assert points == [[10, 0.01], [20, 0.005]]
    assert page.specs['train-lr_head']['lines'][0]['points'] == [[10, 0.2], [20, 0.2]]


@pytest.mark.parametrize(
    ('name', 'chart', 'scale'),
    [
        ('coco/bbox_mAP', 'ap-bbox', 100),
        ('coco/segm_AP', 'ap-segm', 100),
        ('bbox_mAP_50', 'ap-bbox', 100),
        ('lvis/bbox_AP', 'ap-lvis-bbox', 100),
        ('my/coco/segm_mAP_75', 'ap-my/coco-segm', 100),
        ('pascal_voc/mAP', 'ap-pascal_voc', 100),
        ('pascal_voc/AP50', 'ap-pascal_voc', 100),
        ('cityscapes/AP@50', 'ap-cityscapes', 100),
        ('crowd_human/mMR', 'val-crowd_human/mMR', 1),
        ('proposal_fast/AR@100', 'val-proposal_fast/AR@100', 1),
        ('coco_panoptic/PQ', 'val-coco_panoptic/PQ', 1),
        ('coco/cat_precision', 'val-coco/cat_precision', 1),
        ('coco/bbox_cat_AP', 'val-coco/bbox_cat_AP', 1),
        ('F1', 'val-F1', 1),
        ('a "b" <i>', 'val-a "b" <i>', 1),
    ],
)
def test_every_metric_of_a_validation_is_shown(name, chart, scale, tmp_path):
    lines = []
    for epoch, value in ((1, 0.25), (2, 0.375)):
        lines.append(
            {'epoch': epoch, 'iter': 10 * epoch, 'loss': 1, 'step': 10 * epoch}
        )
        lines.append({name: value, 'data_time': 0.1, 'time': 0.2, 'step': epoch})
    path = tmp_path / 'log.json'
    path.write_text('\n'.join(map(json.dumps, lines)))
    page, _ = page_of(path)
    (line,) = page.specs[chart]['lines']
    assert line['points'] == [[10, 0.25 * scale], [20, 0.375 * scale]]
    ((_, _, rows),) = page.tables
    assert rows[1:] == [[name, '0.375']]
    lines = lines[:2]
    path.write_text('\n'.join(map(json.dumps, lines)))
    page, _ = page_of(path)
    assert chart not in page.specs  # one validation is no curve
    ((_, _, rows),) = page.tables
    assert rows[1:] == [[name, '0.25']]


def test_percent_and_missing_values_of_validations(tmp_path):
    lines = []
    for step, value in ((1, 25), (2, 30)):
        one = {'epoch': step, 'iter': 10 * step, 'loss': 1, 'step': 10 * step}
        lines.append(one | {'acc_x': 3, 'base_lr': 1})
        lines.append({'voc/mAP': value, 'coco/bbox_mAP_s': -1, 'time': 1, 'step': step})
    (tmp_path / 'log.json').write_text('\n'.join(map(json.dumps, lines)))
    page, _ = page_of(tmp_path / 'log.json')
    assert [y for _, y in page.specs['ap-voc']['lines'][0]['points']] == [25, 30]
    assert page.tables[0][2][1:] == [['voc/mAP', '30'], ['coco/bbox_mAP_s', 'n/a']]
    assert {'train-acc_x', 'train-loss'} <= set(page.specs)
    assert 'train-base_lr' not in page.specs


def test_a_log_of_mmdetection_2(tmp_path):
    """Iterations begin again in each epoch, which is as long as its last line says."""
    lines = [{'env_info': 'sys.platform: linux', 'config': 'x', 'seed': 0}]
    for epoch in (1, 2):
        for step in (10, 20):
            one = {'mode': 'train', 'epoch': epoch, 'iter': step, 'lr': 0.1, 'time': 1}
            lines.append(one | {'loss': 4 * epoch + step / 10})
        one = {'mode': 'val', 'epoch': epoch, 'iter': 500, 'lr': 0.1}
        lines.append(one | {'bbox_mAP': epoch / 4, 'bbox_mAP_copypaste': '0.1 0.2'})
    path = tmp_path / 'work' / '20210101_000000.log.json'
    path.parent.mkdir()
    path.write_text('\n'.join(map(json.dumps, lines)))
    for source in (path, path.parent):
        page, [run] = page_of(source)
        points = [[10, 5], [20, 6], [30, 9], [40, 10]]
        assert page.specs['train-loss']['lines'][0]['points'] == points
        points = [[20, 25], [40, 50]]
        assert page.specs['ap-bbox']['lines'][0]['points'] == points
        assert run.log.notes == ()


def test_a_broken_result_file_takes_nobodys_errors(tmp_path, coco_file):
    content = json.loads(coco_file.read_text())
    records = [measured(coco_file, content, seed) for seed in range(3)]
    records[1]['results']['bbox']['metrics']['AP'] = 'x'
    others = [
        {'predictions': {'file': name}, 'results': one['results']}
        for name, one in zip('bc', records[1:], strict=True)
    ]
    record = {**records[0], 'others': others}
    record['analysis'] = [one['analysis'][0] for one in records]
    (tmp_path / 'metrics.json').write_text(json.dumps(record))
    _, runs = page_of(tmp_path)
    assert [run.label[-1] for run in runs] == ['s', 'c']  # results, c
    assert runs[1].analysis == records[2]['analysis'][0] != records[1]['analysis'][0]
    assert any('result file 2' in line for line in runs[0].missing)


def test_the_folder_one_stands_in(tmp_path, shapes, command, monkeypatch):
    """Also that of one start, in which the config has no folder before it."""
    write_run(tmp_path / 'run', shapes, config='a = 1\n')
    for folder in (tmp_path / 'run' / STAMP, tmp_path / 'run'):
        monkeypatch.chdir(folder)
        assert command('report', '.', '--no-model')[0] == 0
        page = Page((folder / 'report.html').read_text())
        assert page.runs() == [folder.name]
        assert page.table(class_='flat') == [['a', '1']]


def test_more_runs_than_colours(tmp_path, coco_file, command):
    """Result files of one evaluation count."""
    record = measured(coco_file, json.loads(coco_file.read_text()), 0)
    for files_of_one, code in ((8, 0), (9, 2)):
        others = [{'results': record['results']}] * (files_of_one - 1)
        path = tmp_path / 'metrics.json'
        path.write_text(json.dumps({**record, 'others': others}))
        found, _, err = command('report', tmp_path, '--no-model')
        assert found == code and ('up to 8 runs' in err) == (code == 2)
