"""Runs with broken or hostile files in them; and what the command refuses."""

import json

import pytest

from eca_mmdet.reporting.page import render_page
from eca_mmdet.reporting.run import Options, read_run
from eca_mmdet.reporting.sections.images import inside
from eca_mmdet.utils.errors import UserError
from tests.support.report_runs import NASTY, STAMP, Page, page_of, write_run


def edit(record, keys, value):
    """Set one value of a metrics.json, by the keys and indices that lead to it."""
    for key in keys[:-1]:
        record = record[key]
    record[keys[-1]] = value


@pytest.mark.parametrize(
    'content',
    [
        '',
        '[]',
        '{"results": {}}',
        '{"results": {"bbox": {"metrics": {"AP": "x"}}}}',
        '{"results": {"bbox": {"metrics": {"AP": 57.0}}}}',
        '{"results": {"bbox": {"metrics": {"AP": NaN}}}}',
        '{"results": {"bbox": {"metrics": {"AP": 0.1}}}, "others": 5}',
        '{"results": {"bbox": {"metrics": {"AP": 0.1}}}, "checkpoint": {"file": 5}}',
        '{"results": {"bbox": {"metrics": {"AP": 0.1}}}, "notes": [5]}',
        '[' * 100_000,
    ],
)
def test_a_broken_metrics_file_is_reported(tmp_path, shapes, content):
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'run' / STAMP / 'metrics.json').write_text(content)
    page, [run] = page_of(tmp_path / 'run')
    assert run.record is None and 'train-loss' in page.specs
    assert any('metrics.json' in line for line in run.missing)


@pytest.mark.parametrize(
    ('keys', 'value', 'lost'),
    [
        (['results', 'bbox', 'classes'], [1], 'classes'),
        (['results', 'bbox', 'max_dets'], 5, 'results'),
        (['results', 'bbox', 'counts'], ['x'], 'summary'),
        (['analysis', 0, 'bbox', 'pr_curves'], {'recall': 1, '0.50': [1]}, 'precision'),
        (['analysis', 0, 'bbox', 'confusion', 'matrix'], [[1, 2], 3], 'confusion'),
        (['analysis', 0, 'bbox', 'calibration', 'ece'], 10**400, 'errors'),
        (['analysis', 0, 'bbox', 'errors', 'delta_ap'], 'x', 'errors'),
        (['analysis', 0, 'segm', 'worst_images'], [3], 'images'),
        (['analysis', 0], {'bbox': 3}, 'precision'),
    ],
)
def test_a_section_of_another_form_is_left_out(tmp_path, shapes, keys, value, lost):
    """Of that run only: the other run keeps its own, and its colour."""
    for name in ('broken', 'sound'):
        write_run(tmp_path / name, shapes)
    path = tmp_path / 'broken' / STAMP / 'metrics.json'
    record = json.loads(path.read_text())
    edit(record, keys, value)
    path.write_text(json.dumps(record))
    runs = [read_run(tmp_path / name, name)[0] for name in ('broken', 'sound')]
    page = Page(render_page(runs, Options(examples=1, images=str(shapes / 'val'))))
    [line] = [line for line in runs[0].missing if line.startswith(f'{lost}: ')]
    assert str(path) in line and line in page.texts
    assert not any('another form' in line for line in runs[1].missing)
    colours = {'precision': 'pr-bbox', 'classes': 'classes-bbox'}
    if lost in colours:
        spec = page.specs[colours[lost]]
        assert {one['colour'] for one in spec.get('lines') or spec['bars']} == {1}
    if lost not in ('results', 'summary'):
        assert page.runs() == ['broken', 'sound']


def test_an_analysis_that_is_none_is_reported(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'analysis': 3}))
    page, [run] = page_of(tmp_path / 'run')
    assert any('has no analysis' in line for line in run.missing)
    assert page.results()


@pytest.mark.parametrize('name', ['../secret.png', '/etc/x.png', 'a/../../b.png', ''])
def test_images_of_other_folders_are_not_taken(tmp_path, name):
    with pytest.raises(UserError) as error:
        inside(tmp_path, name)
    assert error.value.code == 'no-images'
    assert inside(tmp_path, 'a/../b.png') == tmp_path / 'b.png'


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
    assert '00000.png is not an image that can be read' in err
    assert '00001.png does not exist' in err


def test_a_config_that_is_code_is_shown_and_not_run(tmp_path, shapes, command):
    marker = tmp_path / 'ran'
    code = f'import os\nos.mkdir({str(marker)!r})\nmodel = dict()\n'
    write_run(tmp_path / 'run', shapes, config=code)
    assert command('report', tmp_path / 'run')[0] == 0
    assert not marker.exists()
    page = Page((tmp_path / 'run' / 'report.html').read_text())
    assert any('os.mkdir' in text for text in page.texts)


def test_names_are_text_and_nothing_else(tmp_path, shapes):
    write_run(tmp_path / 'run', shapes, name=NASTY, config=f'a = {NASTY!r}\n')
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    path.write_text(path.read_text().replace('circle', NASTY.replace('"', '\\"')))
    runs = read_run(tmp_path / 'run', NASTY)
    text = render_page(runs)
    page = Page(text)
    assert not page.images and '<img src=x' not in text
    assert page.runs() == [NASTY]
    assert any(NASTY in one for one in page.specs['classes-bbox']['categories'])


def test_the_page_replaces_pages_alone(tmp_path, shapes, command):
    write_run(tmp_path / 'run', shapes)
    target = tmp_path / 'run' / 'report.html'
    target.write_text('<p>mine</p>')
    code, _, err = command('report', tmp_path / 'run', '--no-model')
    assert code == 2 and '[output-exists]' in err
    assert target.read_text() == '<p>mine</p>'
    target.unlink()
    for said in ('page: ', 'page, in place of the one before: '):
        code, out, _ = command('report', tmp_path / 'run', '--no-model')
        assert code == 0 and out == f'{said}{target}\n'
    assert {one.name for one in target.parent.iterdir()} == {STAMP, 'report.html'}


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['nowhere'], 'file-not-found'),
        (['empty'], 'not-results'),
        (['run', 'run'], 'option-invalid'),
        (['run', '--labels', 'a', 'b'], 'option-invalid'),
        (['run', '--out', '.'], 'output-exists'),
        (['run', '--out', 'run/x.py/report.html'], 'file-not-written'),
    ],
)
def test_refusals(tmp_path, shapes, command, monkeypatch, words, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'run' / 'x.py').write_text('a = 1\n')
    code, out, err = command('report', *words, '--no-model')
    assert (code, out) == (2, '') and err.endswith(f'[{error}]\n')


def test_a_file_that_is_no_log(tmp_path):
    path = tmp_path / 'x.log'
    path.write_bytes(b'\x00\x01\x02' * 1000)
    with pytest.raises(UserError) as error:
        read_run(path, 'x')
    assert error.value.code == 'not-results'


@pytest.mark.parametrize(
    'change',
    [
        {'category_id': 999},
        {'segmentation': {'size': [100_000, 100_000], 'counts': 'x'}},
        {'segmentation': {'size': [2, 2], 'counts': 'x'}},
        {'segmentation': {'size': [96, 96], 'counts': 'rubbish'}},
        {'segmentation': None},
    ],
    ids=str,
)
def test_detections_that_cannot_be_drawn_are_told(tmp_path, shapes, command, change):
    """Among them one that would take 10 GB to decode."""
    write_run(tmp_path / 'run', shapes)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    record = json.loads(path.read_text())
    entries = record['analysis'][0]['segm']['worst_images']
    entries[0]['detections'][0] |= {**change, 'bbox': [1, 1, 5, 5]}
    path.write_text(json.dumps(record))
    code, _, err = command(
        'report', tmp_path / 'run', '--images', shapes / 'val', '--no-model'
    )
    assert code == 0 and f'image {entries[0]["image_id"]!r}' in err
    assert len(Page((tmp_path / 'run' / 'report.html').read_text()).images) >= 4


def test_half_characters_in_notes_are_written(tmp_path, shapes, command):
    write_run(tmp_path / 'run', shapes)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    path.write_text(path.read_text().replace('one note', 'half \\ud800 note'))
    assert command('report', tmp_path / 'run', '--no-model')[0] == 0
    page = Page((tmp_path / 'run' / 'report.html').read_text())
    assert 'half ? note' in page.texts


@pytest.mark.parametrize(
    'content',
    [
        {'checkpoints': []},
        {'checkpoints': [3], 'images': 1},
        {
            'checkpoints': [{'gates': [{'name': 'x'}]}],
            'images': 1,
            'thresholds': {'dead': 0.1, 'saturated': 0.9, 'constant': 0.1},
        },
    ],
    ids=['none', 'number', 'without values'],
)
def test_a_broken_gates_file_is_told(tmp_path, shapes, command, content):
    write_run(tmp_path / 'run', shapes)
    (tmp_path / 'run' / 'gates').mkdir()
    (tmp_path / 'run' / 'gates' / 'gates.json').write_text(json.dumps(content))
    code, _, err = command('report', tmp_path / 'run', '--no-model')
    assert code == 0 and 'not shown of run: gates: ' in err
    assert 'is of another form' in err
