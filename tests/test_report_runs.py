"""Runs of which parts are missing, broken or old; and what the command refuses."""

import json
import math
import subprocess

import pytest

from eca_mmdet.errors import UserError
from eca_mmdet.report.charts import MOST_POINTS, line
from eca_mmdet.report.page import render_page
from eca_mmdet.report.run import read_run
from tests.conftest import PYTHON
from tests.report_runs import STAMP, Page, losses, measured, write_run


def page_of(*folders):
    runs = [run for folder in folders for run in read_run(folder, folder.name)]
    return Page(render_page(runs)), runs


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
    path = tmp_path / 'old.log.json'
    lines = [{'env_info': 'x', 'config': 'a = 1', 'seed': 0}]
    for step in (50, 100):
        lines.append({'mode': 'train', 'epoch': 1, 'iter': step, 'lr': 0.01, 'loss': 2})
    lines.append({'mode': 'val', 'epoch': 1, 'iter': 100, 'lr': 0.01, 'bbox_mAP': 0.25})
    path.write_text('\n'.join(map(json.dumps, lines)))
    page, _ = page_of(path)
    assert page.specs['train-loss']['lines'][0]['points'] == [[50, 2], [100, 2]]
    assert page.specs['ap-bbox']['lines'][0]['points'] == [[100, 25]]
    assert any('a log file has none' in text for text in page.texts)


def test_infinite_and_missing_values_are_gaps(tmp_path, shapes):
    log = [
        {'loss': 2.0, 'lr': 0.1, 'iter': 10, 'step': 10},
        {'loss': math.nan, 'lr': 0.1, 'iter': 20, 'step': 20},
        {'loss': math.inf, 'lr': 0.1, 'iter': 30, 'step': 30},
        {'coco/bbox_AP': -1.0, 'step': 30},
    ]
    write_run(tmp_path / 'run', shapes, log=log)
    page, _ = page_of(tmp_path / 'run')
    points = page.specs['train-loss']['lines'][0]['points']
    assert points == [[10, 2], [20, None], [30, None]]
    assert page.specs['ap-bbox']['lines'][0]['points'] == [[30, None]]
    assert page.texts[page.texts.index('last loss') + 1] == 'inf'


def test_a_resumed_run_has_no_doubled_steps(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes, log=losses(0))
    later = tmp_path / 'run' / '20260102_040000' / 'vis_data'
    later.mkdir(parents=True)
    again = [{**one, 'loss': 7.0} for one in losses(0) if one['step'] >= 40]
    again = [one for one in again if 'lr' in one]
    (later / 'scalars.json').write_text('\n'.join(map(json.dumps, again)))
    page, _ = page_of(tmp_path / 'run')
    points = page.specs['train-loss']['lines'][0]['points']
    assert [x for x, _ in points] == [10, 20, 30, 40, 50, 60]
    assert [y for _, y in points][3:] == [7, 7, 7] and points[2][1] != 7


@pytest.mark.parametrize(
    'content',
    [
        '',
        '[]',
        '{"results": 3}',
        '{"results": {"bbox": {"metrics": {"AP": "x"}}}}',
        '{"results": {"bbox": {"metrics": {"AP": 0.1}, "classes": [1]}}}',
        '{"results": {}}',
        '[' * 100_000,
    ],
)
def test_a_broken_metrics_file_is_told(tmp_path, shapes, content):
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'run' / STAMP / 'metrics.json').write_text(content)
    page, [run] = page_of(tmp_path / 'run')
    assert run.record is None and 'train-loss' in page.specs
    assert any('metrics.json' in line for line in run.missing)


@pytest.mark.parametrize(
    'analysis',
    [
        3,
        {'bbox': 3},
        {'bbox': {'pr_curves': {'recall': 1, '0.50': [1]}}},
        {'bbox': {'confusion': {'classes': ['a'], 'matrix': [[1, 2], 3]}}},
        {'bbox': {'calibration': {'bins': [{'count': 1}]}}},
        {'bbox': {'errors': {'delta_ap': 'x'}}},
        {'bbox': {'worst_images': [3], 'best_images': {}}},
    ],
    ids=lambda one: str(one)[9:30],
)
def test_an_analysis_of_another_form_is_told(tmp_path, shapes, analysis, command):
    write_run(tmp_path / 'run', shapes)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    record = json.loads(path.read_text())
    path.write_text(
        json.dumps({**record, 'analysis': analysis if analysis == 3 else [analysis]})
    )
    code, out, err = command('report', tmp_path / 'run', '--no-model')
    assert code == 0 and 'not shown of run: ' in err
    page = Page((tmp_path / 'run' / 'report.html').read_text())
    assert page.table(class_='numbers', task='bbox')


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
    assert page.table(class_='numbers', task='bbox')[2][1] == '45.6'


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
    assert [run.label for run in runs] == ['a', 'b']
    rows = page.table(class_='numbers', task='bbox')
    assert rows[0][1:] == ['a', 'b']
    values = [one['results']['bbox']['metrics']['AP'] for one in (first, second)]
    assert rows[2][1:] == [f'{100 * value:.1f}' for value in values]
    assert len(page.specs['pr-bbox']['lines']) == 6


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
    heads = Page(out.read_text()).table(class_='numbers', task='bbox')[0]
    assert heads[1:] == ['x', 'b', 'y', 'b (2)']


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


def test_pictures_of_changed_annotations_are_refused(tmp_path, shapes, command):
    write_run(tmp_path / 'run', shapes)
    changed = tmp_path / 'val.json'
    changed.write_text((shapes / 'annotations' / 'val.json').read_text() + ' ')
    words = ['--ann', changed, '--images', shapes / 'val', '--no-model']
    code, _, err = command('report', tmp_path / 'run', *words)
    assert code == 0 and 'is not the annotation file that was used' in err
    assert not Page((tmp_path / 'run' / 'report.html').read_text()).images


def test_images_that_are_gone_are_named(tmp_path, shapes, command):
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / '00000.png').write_bytes(b'no image')
    code, _, err = command(
        'report', tmp_path / 'run', '--images', tmp_path / 'images', '--no-model'
    )
    assert code == 0
    for name in ('00000.png', '00001.png'):
        assert f'{name} is missing, or no image' in err


def test_a_config_that_is_code_is_shown_and_not_run(tmp_path, shapes, command):
    marker = tmp_path / 'ran'
    code = f'import os\nos.mkdir({str(marker)!r})\nmodel = dict()\n'
    write_run(tmp_path / 'run', shapes, config=code)
    assert command('report', tmp_path / 'run')[0] == 0
    assert not marker.exists()
    page = Page((tmp_path / 'run' / 'report.html').read_text())
    assert any('os.mkdir' in text for text in page.texts)


NASTY = '</script><img src=x onerror=alert(1)>&"\'{{ 7*7 }}'


def test_names_are_text_and_nothing_else(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes, name=NASTY, config=f'a = {NASTY!r}\n')
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    path.write_text(path.read_text().replace('circle', NASTY.replace('"', '\\"')))
    runs = read_run(tmp_path / 'run', NASTY)
    text = render_page(runs)
    page = Page(text)
    assert not page.images and '<img src=x' not in text
    assert NASTY in page.table(class_='numbers', task='bbox')[0]
    assert any(NASTY in one for one in page.specs['classes-bbox']['categories'])


def test_the_page_replaces_pages_alone(tmp_path, shapes, command):
    write_run(tmp_path / 'run', shapes)
    target = tmp_path / 'run' / 'report.html'
    target.write_text('<p>mine</p>')
    code, _, err = command('report', tmp_path / 'run', '--no-model')
    assert code == 2 and 'is no page of this command' in err
    assert target.read_text() == '<p>mine</p>'
    target.unlink()
    for said in ('page: ', 'page, in place of the one before: '):
        code, out, _ = command('report', tmp_path / 'run', '--no-model')
        assert code == 0 and out == f'{said}{target}\n'
    assert {one.name for one in target.parent.iterdir()} == {STAMP, 'report.html'}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['nowhere'], 'does not exist'),
        (['.'], 'neither a training log nor a metrics.json'),
        (['run', 'run'], 'named twice'),
        (['run', '--labels', 'a', 'b'], 'must be 1 different names'),
        (['run', '--out', '.'], 'is no page of this command'),
        (['run', '--out', 'run/x.py/report.html'], 'cannot be written'),
    ],
)
def test_refusals(tmp_path, shapes, command, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'run' / 'x.py').write_text('a = 1\n')
    words = [
        'empty' if word == '.' and '--out' not in words else word for word in words
    ]
    code, out, err = command('report', *words, '--no-model')
    assert (code, out) == (2, '') and message in err


def test_runs_are_named_by_as_much_of_the_path_as_it_takes(tmp_path, shapes, command):
    for parent in ('a', 'b'):
        write_run(tmp_path / parent / 'run', shapes)
    out = tmp_path / 'page.html'
    folders = [tmp_path / parent / 'run' for parent in ('a', 'b')]
    assert command('report', *folders, '--out', out, '--no-model')[0] == 0
    heads = Page(out.read_text()).table(class_='numbers', task='bbox')[0]
    assert heads[1:] == ['a/run', 'b/run']
    words = ['--labels', 'new', 'old']
    assert command('report', *folders, '--out', out, '--no-model', *words)[0] == 0
    heads = Page(out.read_text()).table(class_='numbers', task='bbox')[0]
    assert heads[1:] == ['new', 'old']


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


def test_a_file_that_is_no_log(tmp_path):
    path = tmp_path / 'x.log'
    path.write_bytes(b'\x00\x01\x02' * 1000)
    with pytest.raises(UserError, match='neither a training log'):
        read_run(path, 'x')
