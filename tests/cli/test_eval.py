"""`eca-mmdet eval`, and what `eca-mmdet test` writes."""

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import threading

import pytest

from eca_mmdet.utils.errors import UserError
from tests.conftest import PYTHON
from tests.references.coco import pycocotools_curves, random_case
from tests.support.training_runs import DEMO, shapes_options

COLUMNS = ['AP', 'AP50', 'AP75', 'APS', 'APM', 'APL']
COLUMNS += ['AR1', 'AR10', 'AR100', 'ARS', 'ARM', 'ARL']


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An annotation file and two result files, in the current folder."""
    monkeypatch.chdir(tmp_path)
    content, results = random_case(51)
    for one in results:
        if one['segmentation']['size'] != [120, 96]:
            raise AssertionError(one['segmentation']['size'])
    (tmp_path / 'A.json').write_text(json.dumps(content))
    (tmp_path / 'good.json').write_text(json.dumps(results))
    worse = [{**one, 'bbox': [v + 3 for v in one['bbox']]} for one in results]
    (tmp_path / 'worse.json').write_text(json.dumps(worse))
    return content, results


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_table(value):
    return 'n/a' if value < 0 else f'{value * 100:.1f}'


def test_table(files, command):
    content, results = files
    code, out, err = command('eval', '--ann', 'A.json', '--results', 'good.json')
    assert code == 0
    lines = out.splitlines()
    objects = [one for one in content['annotations'] if not one['iscrowd']]
    crowd = len(content['annotations']) - len(objects)
    assert lines[0] == (
        f'{len(content["images"])} images, {len(objects)} objects and {crowd} crowd '
        f'regions of {len(content["categories"])} classes'
    )
    assert lines[1] == 'COCO AP and AR, 0-100:'
    assert lines[2].split() == COLUMNS
    for line, title, task in zip(
        lines[3:], ('box', 'mask'), ('bbox', 'segm'), strict=True
    ):
        stats = pycocotools_curves(content, results, task)[2]
        assert line.split() == ['good,', title, *map(as_table, stats)]
    assert err.startswith('all numbers: runs/eval-')


def test_masks_without_a_pixel_are_warned_of(files, command, tmp_path):
    content, _ = files
    for one in content['annotations'][:2]:
        one['segmentation'] = [[900, 900, 910, 900, 910, 910]]
    (tmp_path / 'B.json').write_text(json.dumps(content))
    code, _, err = command('eval', '--ann', 'B.json', '--results', 'good.json')
    count = len(content['annotations'])
    assert code == 0 and f'warning: 2 of {count} masks of B.json have no pixel' in err
    words = ('--ann', 'B.json', '--results', 'good.json', '--types', 'bbox')
    assert 'no pixel' not in command('eval', *words)[2]


@pytest.mark.parametrize('whose', ['annotations', 'results'])
def test_boxes_that_are_not_in_pixels_are_warned_of(files, command, tmp_path, whose):
    content, results = files
    boxed = [one for one in results if 'bbox' in one]
    entries = content['annotations'] if whose == 'annotations' else boxed
    for one in entries[: len(entries) // 2 + 1]:
        one['bbox'] = [value / 1000 for value in one['bbox']]
    (tmp_path / 'B.json').write_text(json.dumps(content))
    (tmp_path / 'boxes.json').write_text(json.dumps(boxed))
    words = ('eval', '--results', 'boxes.json', '--types', 'bbox', '--ann')
    code, _, err = command(*words, 'B.json')
    name = {'annotations': 'B.json', 'results': 'the detections'}[whose]
    (line,) = (line for line in err.splitlines() if line.startswith('warning: '))
    assert f' of {len(entries)} boxes of {name} are less than 1 px wide or high' in line
    assert code == 0


def test_record_tells_what_the_numbers_are(files, command, tmp_path):
    content, results = files
    out = tmp_path / 'new' / 'run'
    words = ('--ann', 'A.json', '--results', 'good.json', '--out', out)
    code, printed, _ = command('eval', *words, '--format', 'json')
    assert code == 0
    record = json.loads((out / 'metrics.json').read_text())
    assert record == json.loads(printed)
    assert record['annotations'] == {
        'file': 'A.json',
        'sha256': sha256(tmp_path / 'A.json'),
    }
    assert record['predictions']['sha256'] == sha256(tmp_path / 'good.json')
    assert record['backend'] == 'hotcoco' and record['versions']['hotcoco']
    assert record['versions']['numpy'] and record['date'].startswith('20')
    for task in ('bbox', 'segm'):
        found = record['results'][task]
        stats = pycocotools_curves(content, results, task)[2]
        values = [-1 if v is None else v for v in found['metrics'].values()]
        assert values == stats and list(found['metrics']) == COLUMNS
        assert found['max_dets'] == [1, 10, 100]
        assert found['counts']['detections'] == len(results)
        assert [one['id'] for one in found['classes']] == sorted(
            one['id'] for one in content['categories']
        )


def test_backends_print_the_same(files, command):
    words = ('eval', '--ann', 'A.json', '--results', 'good.json', '--classwise')
    _, first, _ = command(*words)
    _, second, _ = command(*words, '--backend', 'pycocotools')
    assert first == second and 'box, by class' in first


def test_csv_is_one_table(files, command):
    content, results = files
    _, out, _ = command(
        *('eval', '--ann', 'A.json', '--results', 'good.json', 'worse.json'),
        *('--types', 'bbox', '--classwise', '--format', 'csv', '--bootstrap', '20'),
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    compared = ('value', 'difference', '95% CI low', '95% CI high')
    heads = [(row['results'], row['row'], row['class']) for row in rows]
    names = [f'class {i}' for i in sorted(one['id'] for one in content['categories'])]
    assert heads == [
        ('good', 'value', ''),
        *(('good', 'value', name) for name in names),
        *(('worse', row, name) for name in ('', *names) for row in compared),
    ]
    stats = pycocotools_curves(content, results, 'bbox')[2]
    assert [rows[0][name] for name in COLUMNS] == list(map(as_table, stats))
    assert {row['type'] for row in rows} == {'bbox'}
    for row in rows[1 : 1 + len(names)]:
        assert int(row['objects']) == sum(
            a['category_id'] == int(row['class_id']) and not a['iscrowd']
            for a in content['annotations']
        )


@pytest.mark.parametrize(('style', 'sign'), [('md', '|'), ('latex', '\\toprule')])
def test_other_formats_have_nothing_but_the_table(files, command, style, sign):
    words = ('eval', '--ann', 'A.json', '--results', 'good.json', '--format', style)
    _, out, _ = command(*words)
    assert sign in out and 'COCO' not in out and 'images' not in out


def test_several_files_are_compared_to_the_first(files, command, tmp_path):
    content, _ = files
    code, out, _ = command(
        *('eval', '--ann', 'A.json', '--results', 'good.json', 'worse.json'),
        *('--types', 'bbox', '--bootstrap', '40', '--out', 'run'),
    )
    assert code == 0
    *lines, empty, verdict = out.splitlines()[3:]
    rows = [line.split() for line in lines]
    assert [' '.join(row[: -len(COLUMNS)]) for row in rows] == [
        *('good, box', 'worse, box', 'difference (worse - good)'),
        *('95% CI low', '95% CI high'),
    ]
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    [other] = record['others']
    minus = other['minus_first']['bbox']
    worse = json.loads((tmp_path / 'worse.json').read_text())
    expected = [
        pycocotools_curves(content, entries, 'bbox')[2][0]
        for entries in (json.loads((tmp_path / 'good.json').read_text()), worse)
    ]
    assert minus['metrics']['AP'] == expected[1] - expected[0] < 0
    assert minus['low']['AP'] <= minus['high']['AP']
    assert rows[2][4] == f'{minus["metrics"]["AP"] * 100:+.1f}'
    low, high = (f'{100 * minus[end]["AP"]:+.1f}' for end in ('low', 'high'))
    below = f'{-100 * minus["metrics"]["AP"]:.1f} box AP below'
    assert (empty, verdict.startswith(f'worse is {below} good')) == ('', True)
    assert f'95% interval {low} to {high}' in verdict
    assert rows[3][3] == low and rows[4][3] == high
    assert record['bootstrap'] == {'samples': 40, 'seed': 0}
    assert other['predictions']['sha256'] == sha256(tmp_path / 'worse.json')


def test_each_further_file_has_its_own_difference(files, command, tmp_path):
    half = json.loads((tmp_path / 'good.json').read_text())[::2]
    (tmp_path / 'half.json').write_text(json.dumps(half))
    words = ('eval', '--ann', 'A.json', '--types', 'bbox', '--bootstrap', '0')
    _, out, _ = command(
        *words, '--results', 'good.json', 'worse.json', 'half.json', '--out', 'run'
    )
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    rows = [line.split() for line in out.splitlines()[3:]]
    for name, row, other in zip(
        ('worse', 'half'), rows[2:5:2], record['others'], strict=True
    ):
        assert row[:4] == ['difference', f'({name}', '-', 'good)']
        expected = other['results']['bbox']['metrics']['AP']
        expected -= record['results']['bbox']['metrics']['AP']
        assert row[4] == f'{expected * 100:+.1f}'
        assert other['minus_first']['bbox']['metrics']['AP'] == expected
    assert rows[2][4] != rows[4][4]


def test_classes_of_two_files_are_one_table_by_difference(files, command, tmp_path):
    """AP is pycocotools'; the interval of each class is that of the record."""
    content, results = files
    words = ('--types', 'bbox', '--classwise', '--bootstrap', '30', '--out', 'run')
    code, out, _ = command(
        *('eval', '--ann', 'A.json', '--results', 'good.json', 'worse.json'), *words
    )
    assert code == 0
    worse = json.loads((tmp_path / 'worse.json').read_text())
    precision = [
        pycocotools_curves(content, entries, 'bbox')[0] for entries in (results, worse)
    ]
    lines = out.splitlines()
    start = lines.index('box AP by class, the largest difference first:') + 1
    assert [*map(str.strip, re.split('  +', lines[start]))] == [
        *('class', 'id', 'objects', 'AP good', 'AP worse'),
        *('difference', '95% CI low', '95% CI high'),
    ]
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    minus = record['others'][0]['minus_first']['bbox']['classes']
    ids = sorted(one['id'] for one in content['categories'])
    assert [one['id'] for one in minus] == ids
    rows = [re.split('  +', line) for line in lines[start + 1 : start + 1 + len(ids)]]
    sizes = []
    for name, id_, objects, *cells in rows:
        at = ids.index(int(id_))
        aps = [p[:, :, at, 0, -1] for p in precision]
        aps = [p[p > -1].mean() if (p > -1).any() else None for p in aps]
        entry = minus[at]
        assert (name, objects) == (entry['name'], str(entry['objects']))
        if aps[0] is None:
            assert cells == ['n/a'] * 5
            sizes.append(-1)
            continue
        change = aps[1] - aps[0]
        ends = (entry[end]['AP'] for end in ('low', 'high'))
        assert entry['metrics']['AP'] == pytest.approx(change, abs=1e-12)
        assert cells == [
            *(f'{100 * ap:.1f}' for ap in aps),
            *('n/a' if v is None else f'{100 * v:+.1f}' for v in (change, *ends)),
        ]
        sizes.append(abs(change))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    clear = [
        (each['metrics']['AP'], each['name'])
        for each in minus
        if each['low']['AP'] is not None
        if each['low']['AP'] > 0 or each['high']['AP'] < 0
    ]
    clear.sort(key=lambda pair: -abs(pair[0]))
    names = ', '.join(f'{name} {100 * change:+.1f}' for change, name in clear[:10])
    line = lines[start + 1 + len(ids)]
    assert clear and line.startswith(f'interval without 0: {names}')
    assert lines[-1].startswith('worse is ')


@pytest.mark.parametrize('lowest, noted', [(0.3, True), (0.01, False)])
def test_results_that_were_cut_at_a_score(files, command, tmp_path, lowest, noted):
    entries = json.loads((tmp_path / 'good.json').read_text())
    while len(entries) < 100:
        entries += entries
    for entry in entries:
        entry['score'] = max(entry['score'], 0.3)
    entries[-1]['score'] = lowest
    (tmp_path / 'cut.json').write_text(json.dumps(entries))
    words = ('--types', 'bbox', '--bootstrap', '0', '--out', 'run')
    *_, err = command('eval', '--ann', 'A.json', '--results', 'cut.json', *words)
    assert ('cut: no score is below 0.30. AP counts every detection' in err) == noted


def test_files_of_one_name_are_told_apart(files, command, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'good.json').write_text((tmp_path / 'good.json').read_text())
    words = ('eval', '--ann', 'A.json', '--types', 'bbox', '--bootstrap', '0')
    _, out, _ = command(*words, '--results', 'good.json', 'a/good.json')
    assert 'good.json, box' in out and 'a/good.json, box' in out
    _, out, _ = command(*words, '--results', 'good.json', 'good.json')
    assert '1: good.json, box' in out and '2: good.json, box' in out


def test_tables_of_classes_are_labelled(files, command):
    words = ('eval', '--ann', 'A.json', '--results', 'good.json', '--classwise')
    for style, label in (
        ('md', '**good, mask, by class:**'),
        ('latex', '% good, mask'),
    ):
        _, out, _ = command(*words, '--format', style)
        assert label in out


def test_names_from_files_do_not_reach_the_terminal_raw(files, command, tmp_path):
    content = json.loads((tmp_path / 'A.json').read_text())
    content['categories'][0]['name'] = 'a\x1b[31m\nb'
    (tmp_path / 'A.json').write_text(json.dumps(content))
    words = ('eval', '--ann', 'A.json', '--results', 'good.json', '--classwise')
    for style in ('table', 'md', 'csv', 'latex'):
        _, out, _ = command(*words, '--format', style)
        assert '\x1b' not in out and '[31m' in out


def test_what_was_read_is_what_is_recorded(files, command, tmp_path):
    """A pipe can be read once: the sum is that of the bytes."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    content = (tmp_path / 'good.json').read_bytes()
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    words = ('--types', 'bbox', '--out', 'run', '--classes')
    names = [
        c['name'] for c in json.loads((tmp_path / 'A.json').read_text())['categories']
    ]
    code, _, err = command(
        *('eval', '--ann', 'A.json', '--results', 'pipe'), *words, *names
    )
    writer.join()
    assert code == 0, err
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert record['predictions']['sha256'] == hashlib.sha256(content).hexdigest()
    assert record['classes'] == names and record['notes'] == []


@pytest.mark.parametrize(
    'words',
    [('--bootstrap', '-5'), ('--seed', '-1'), ('--score-thr', 'nan'), ('--max-dets',)],
)
def test_values_that_options_refuse(files, command, words):
    with pytest.raises(SystemExit) as exit_:
        command('eval', '--ann', 'A.json', '--results', 'good.json', *words)
    assert exit_.value.code == 2


def test_other_limits_keep_quiet_and_have_intervals(files, command):
    code, out, err = command(
        *('eval', '--ann', 'A.json', '--results', 'good.json', 'worse.json'),
        *('--types', 'bbox', '--max-dets', '1', '2', '3', '4', '--bootstrap', '20'),
        *('--analysis', '--out', 'run'),
    )
    assert code == 0 and 'AR4' in out and 'Warning' not in err


def test_max_dets_are_named(files, command):
    words = ('eval', '--ann', 'A.json', '--results', 'good.json', '--types', 'bbox')
    _, out, _ = command(*words, '--max-dets', '1', '3')
    assert 'at most 3 detections an image and class' in out and 'AR3' in out


def test_chosen_classes(files, command):
    content, results = files
    last = max(content['categories'], key=lambda one: one['id'])
    name = last['name']
    words = ('eval', '--ann', 'A.json', '--results', 'good.json', '--types', 'bbox')
    code, _, err = command(*words, '--classes', 'Cat')
    assert code == 2 and "'Cat'" in err and '[unknown-class]' in err
    code, out, err = command(*words, '--classes', name)
    assert code == 0, err
    chosen = last['id']
    only = {**content, 'categories': [last]}
    only['annotations'] = [
        one for one in content['annotations'] if one['category_id'] == chosen
    ]
    mine = [one for one in results if one['category_id'] == chosen]
    stats = pycocotools_curves(only, mine, 'bbox')[2]
    assert out.splitlines()[-1].split()[2:] == list(map(as_table, stats))


def test_analysis_writes_pictures_and_data(files, command, tmp_path):
    code, _, err = command(
        *('eval', '--ann', 'A.json', '--results', 'good.json', 'worse.json'),
        *('--types', 'bbox', '--analysis', '--bootstrap', '0', '--out', 'run'),
    )
    assert code == 0 and 'pictures: run/1-good' in err
    for folder in ('1-good', '2-worse'):
        assert (tmp_path / 'run' / folder / 'bbox_confusion.png').stat().st_size > 5000
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert [one['file'] for one in record['analysis']] == ['good.json', 'worse.json']
    assert record['analysis'][0]['bbox']['errors']['counts']
    assert record['others'][0]['minus_first']['bbox']['low'] == {}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--ann', 'no.json', '--results', 'good.json'), "'no.json' does not exist"),
        (('--ann', 'A.json', '--results', 'no.json'), "'no.json' does not exist"),
        (('--ann', 'good.json', '--results', 'A.json'), 'not a COCO annotation file'),
        (('--ann', 'A.json', '--results', 'A.json'), 'it is an annotation file'),
        (
            ('--ann', 'A.json', '--results', 'good.json', '--max-dets', '9', '1'),
            '[option-invalid]',
        ),
        (
            ('--ann', 'A.json', '--results', 'good.json', '--out', '.'),
            '[output-exists]',
        ),
    ],
)
def test_bad_usage_is_one_line(files, command, words, message):
    code, out, err = command('eval', *words)
    assert code == 2 and out == '' and len(err.splitlines()) == 1
    assert message in err


def test_faulty_results_leave_no_run_folder(files, command, tmp_path):
    entries = json.loads((tmp_path / 'good.json').read_text())
    entries[3]['score'] = float('nan')
    (tmp_path / 'bad.json').write_text(json.dumps(entries))
    code, _, err = command('eval', '--ann', 'A.json', '--results', 'bad.json')
    assert code == 2 and '1 of' in err and 'number 3 (nan)' in err
    assert not (tmp_path / 'runs').exists()


def test_neither_mmdet_nor_torch_is_imported(files, tmp_path):
    script = (
        'import sys\nfrom eca_mmdet import cli\n'
        "code = cli.main(['eval', '--ann', 'A.json', '--results', 'good.json'])\n"
        "print(code, [m for m in ('torch', 'mmdet', 'mmengine') if m in sys.modules])"
    )
    done = subprocess.run(
        [PYTHON, '-c', script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == '0 []', done.stderr


@pytest.mark.openmmlab
@pytest.mark.slow
def test_saved_results_give_the_ap_of_the_test(mmdet_ready, shapes, command, tmp_path):
    """`test --save-results`, then `eval`: the same to the last digit."""
    options = shapes_options(shapes)
    work = tmp_path / 'work'
    assert command('train', DEMO, '--work-dir', work, *options)[0] == 0
    checkpoint = work / 'iter_2.pth'
    words = ('test', DEMO, checkpoint, '--work-dir', tmp_path / 'test', *options)
    saved = ('--save-results', tmp_path / 'out', '--classwise')
    code, out, _ = command(*words, *saved)
    assert code == 0 and 'mask, by class' in out
    [path] = (tmp_path / 'test').glob('*/metrics.json')
    tested = json.loads(path.read_text())
    assert tested['checkpoint'] == {
        'file': str(checkpoint),
        'sha256': sha256(checkpoint),
    }
    assert tested['config'] == DEMO
    annotations = shapes / 'annotations' / 'val.json'
    for task in ('bbox', 'segm'):
        results = tmp_path / 'out' / f'{DEMO}.{task}.json'
        code, out, _ = command(
            *('eval', '--ann', annotations, '--results', results),
            *('--types', task, '--format', 'json', '--out', tmp_path / f'eval-{task}'),
        )
        assert code == 0
        again = json.loads(out)
        assert again['results'][task] == tested['results'][task]
        assert again['annotations']['sha256'] == tested['annotations']['sha256']
    code, _, err = command(*words, *saved)
    assert code == 2 and 'overwrites nothing' in err
    # A config with hooks of its own records all the same.
    own = ('--work-dir', tmp_path / 'own', *options, 'custom_hooks=[]')
    assert command('test', DEMO, checkpoint, *own)[0] == 0
    assert len(list((tmp_path / 'own').glob('*/metrics.json'))) == 1

    info = tmp_path / 'image_info_test-dev2017.json'
    content = json.loads(annotations.read_text())
    del content['annotations']
    info.write_text(json.dumps(content))
    options += [
        f'test_dataloader.dataset.ann_file={info}',
        f'test_evaluator.ann_file={info}',
    ]
    words = ('test', DEMO, checkpoint, '--work-dir', tmp_path / 'dev', *options)
    code, _, err = command(*words)
    assert code == 2 and 'no annotations' in err and '--format-only' in err
    code, _, err = command(*words, '--format-only')
    assert code == 2 and '--format-only needs --save-results' in err
    code, _, err = command(*words, '--format-only', '--save-results', tmp_path / 'send')
    assert code == 0, err
    for task in ('bbox', 'segm'):
        archive = f'detections_test-dev2017_{DEMO.replace("_", "-")}_results.zip'
        assert (tmp_path / 'send' / task / archive).is_file()
        first = tmp_path / 'send' / f'{DEMO}.{task}.json'
        assert first.read_bytes() == (tmp_path / 'out' / first.name).read_bytes()


def set_outputs_of(evaluator, tmp_path, **options):
    from mmengine.config import Config

    from eca_mmdet.engine.testing import set_outputs

    config = tmp_path / 'name.py'
    config.write_text(f'test_evaluator = {evaluator!r}\n')
    cfg = Config.fromfile(str(config))
    set_outputs(cfg, **options)
    return cfg


OURS = {'type': 'CocoTableMetric', 'ann_file': 'image_info_test-dev2017.json'}


@pytest.mark.parametrize('nested', [False, True])
def test_several_evaluators_write_files_of_their_own(mmdet_ready, tmp_path, nested):
    both = [OURS, {**OURS, 'type': 'mmdet.CocoMetric'}]
    evaluator = {'type': 'Evaluator', 'metrics': both} if nested else both
    cfg = set_outputs_of(evaluator, tmp_path, save_results=str(tmp_path / 'out'))
    found = cfg.test_evaluator.metrics if nested else cfg.test_evaluator
    assert [one.outfile_prefix for one in found] == [
        str(tmp_path / 'out' / f'name-{index}') for index in (1, 2)
    ]


@pytest.mark.parametrize(
    'name', ['name.segm.json', 'bbox/detections_test-dev2017_name_results.zip']
)
def test_files_in_the_way_are_told_before_the_test(mmdet_ready, tmp_path, name):
    path = tmp_path / 'out' / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / 'nowhere')
    with pytest.raises(UserError, match=f'{name} exists, and this command overwrites'):
        set_outputs_of(OURS, tmp_path, save_results=str(tmp_path / 'out'))


@pytest.mark.parametrize(
    ('folder', 'message'), [('', 'empty'), ('file', 'nothing can')]
)
def test_folders_that_take_no_results(mmdet_ready, tmp_path, folder, message):
    (tmp_path / 'file').write_text('')
    name = folder and str(tmp_path / folder)
    with pytest.raises(UserError, match=message):
        set_outputs_of(OURS, tmp_path, save_results=name)


def test_mmdets_metric_writes_no_submission(mmdet_ready, tmp_path):
    theirs = {**OURS, 'type': 'CocoMetric'}
    options = {'save_results': str(tmp_path / 'out')}
    set_outputs_of(theirs, tmp_path, **options)
    with pytest.raises(UserError, match='need one of the metrics CocoTableMetric, V1'):
        set_outputs_of(theirs, tmp_path, format_only=True, **options)


def test_other_evaluators_are_refused_for_coco_options(mmdet_ready):
    from mmengine.config import Config

    from eca_mmdet.engine.testing import set_outputs

    cfg = Config({'test_evaluator': {'type': 'VOCMetric'}})
    with pytest.raises(UserError, match='need one of the metrics CocoTableMetric'):
        set_outputs(cfg, classwise=True)
