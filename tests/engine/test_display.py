"""What a training and a test print: a few lines, and all the rest in the log file."""

import io
import json
import re

import pytest
from rich.console import Console

import eca_mmdet
from eca_mmdet.engine.display import Display
from tests.support import training_runs

pytestmark = pytest.mark.openmmlab


@pytest.fixture(scope='module')
def config(mmdet_ready, shapes, tmp_path_factory):
    path = tmp_path_factory.mktemp('display') / 'tiny.py'
    return training_runs.write_config(path, shapes)


def test_a_training_prints_what_it_is_and_the_best(config, command, tmp_path):
    work = tmp_path / 'run'
    code, out, err = command('train', config, '--work-dir', work, '--seed', '0')
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) < 30
    words = [line.split()[0] for line in lines]
    first = words.index('data')
    assert words[first : first + 5] == ['data', 'model', 'steps', 'device', 'folder']
    assert lines[first].startswith('data    6 images for training, 4 for validation; ')
    steps = [line for line in lines if line.startswith('training')]
    assert [line.split()[1] for line in steps] == ['1/6', '6/6']
    # Both validations, each with its table, and the better of the two.
    measured = {}
    for step in (3, 6):
        (file,) = work.glob(f'*/metrics_iter_{step}.json')
        results = json.loads(file.read_text())['results']
        measured[step] = {
            name: max(100 * results[task]['metrics']['AP'], 0)
            for task, name in (('bbox', 'box'), ('segm', 'mask'))
        }
    best = [line for line in lines if line.startswith('best so far: ')]
    assert len(best) == 2
    for name in ('box', 'mask'):
        step = 6 if measured[6][name] > measured[3][name] else 3
        assert f'{name} AP {measured[step][name]:.1f} (step {step})' in best[1]
    assert sum(line.startswith('box ') for line in lines) == 2
    # mmengine's own lines are in the file, and there alone.
    (log,) = work.glob('*/*.log')
    for text in ('System environment', 'Iter(train)', 'Iter(val)', 'Hooks will be'):
        assert text in log.read_text() and text not in out


def test_verbose_prints_the_log_of_mmengine(config, command, tmp_path):
    words = ('--work-dir', tmp_path / 'run', '--verbose')
    code, out, err = command('train', config, *words)
    assert code == 0, err
    assert 'System environment' in out and 'Iter(val)' in out
    assert 'best so far' not in out


def test_a_terminal_has_one_live_line_that_goes_away(config, tmp_path):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    with Display(console) as display:
        eca_mmdet.train(config, tmp_path / 'run', display=display)
    text = stream.getvalue()
    plain = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
    shown = re.findall(r'training +\S+ +(\d)/6 ', plain)
    assert shown == sorted(shown) and shown[-1] == '6'
    assert re.search(
        r'6/6 loss \d+\.\d{3}  lr [\d.e-]+  data \d+%  0:00:00 left', plain
    )
    assert text.endswith('\x1b[2K')  # the line is erased


def test_numbers_of_another_metric_are_printed(config, command, tmp_path):
    words = ('val_evaluator._delete_=True', 'val_evaluator.type=CocoMetric')
    root = eca_mmdet.load_config(config).val_evaluator.ann_file
    code, out, err = command(
        *('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *words),
        *(f'val_evaluator.ann_file={root}', 'val_evaluator.metric=bbox'),
    )
    assert code == 0, err
    assert (
        len(re.findall(r'^coco/bbox_mAP -?[\d.e-]+  coco/bbox_mAP_50 ', out, re.M)) == 2
    )
    assert 'best so far' not in out


def test_names_are_printed_as_they_are():
    stream = io.StringIO()
    metrics = {
        'a/[red]': 1,
        '[/b] :car:': 0.25,
        'e\x1b[2Jf': 2,
        'x' * 90: 3,
        'no': 'text',
    }
    console = Console(file=stream, force_terminal=True, width=40)
    Display(console).after_test_epoch(None, metrics | {'time': 1.0})
    assert stream.getvalue() == (
        f'a/[red] 1  [/b] :car: 0.25  e\\x1b[2Jf 2  {"x" * 90} 3\n'
    )
    Display(console).after_test_epoch(None, {})  # of --format-only
    assert stream.getvalue().count('\n') == 1


def test_a_dumb_terminal_gets_plain_lines(config, tmp_path, monkeypatch):
    monkeypatch.setenv('TERM', 'dumb')
    stream = io.StringIO()
    with Display(Console(file=stream, force_terminal=True)) as display:
        eca_mmdet.train(config, tmp_path / 'run', display=display)
    lines = stream.getvalue().splitlines()
    steps = [line.split()[1] for line in lines if line.startswith('training')]
    assert steps == ['1/6', '6/6'] and '' not in lines


def test_a_resumed_training_knows_the_best_of_before(config, tmp_path):
    keep = ['default_hooks.checkpoint.max_keep_ckpts=-1']

    def train(**settings):
        settings |= {'seed': 0, 'options': keep}
        stream = io.StringIO()
        with Display(Console(file=stream)) as display:
            eca_mmdet.train(config, tmp_path / 'run', display=display, **settings)
        pattern = 'best so far: box AP ([0-9.]+) [(](.+?)[)]'
        return re.findall(pattern, stream.getvalue())

    (early, place), whole = train()
    assert float(early) > 0 and place == whole[1] == 'step 3'
    resumed = train(resume=str(tmp_path / 'run' / 'iter_4.pth'))
    assert resumed == [(early, 'before resuming')]
