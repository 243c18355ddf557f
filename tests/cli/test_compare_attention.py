"""Several mechanisms on the demo's detector: runs, resuming, tables, refusals."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import cv2
import pytest

from eca_mmdet.demo import comparison
from eca_mmdet.demo.comparison import Run
from eca_mmdet.utils.errors import UserError
from tests.conftest import PYTHON, listen_to_interrupts

MECHANISMS = ('none', 'eca', 'bam')


def ap_of(mechanism, seed):
    """AP (0-1) that the stand-in for training gives."""
    return {'none': 0.5, 'eca': 0.6, 'bam': 0.55}[mechanism] + 0.01 * seed


@pytest.fixture
def trained(monkeypatch, mmdet_ready):
    """Put a stand-in for the training in place; it notes down its commands."""
    commands = []

    def run_logged(command, log):
        commands.append(command)
        given = dict(zip(command[4::2], command[5::2], strict=False))
        seed = int(given['--seed'])
        value = ap_of(given['--attention'], seed)
        out = given['--out']
        os.mkdir(out)
        results = {'bbox': {'metrics': {'AP': value}}}
        if given['--detector'] == 'mask':
            results['segm'] = {'metrics': {'AP': value / 2}}
        record = dict(
            attention=given['--attention'], seed=seed, results=results, seconds=7.0
        )
        with open(os.path.join(out, 'metrics.json'), 'w') as file:
            json.dump(record, file)

    monkeypatch.setattr(comparison, 'run_logged', run_logged)
    return commands


@pytest.fixture
def uncounted(monkeypatch):
    """Do without counting and timing, which take seconds."""
    counted = dict(params=1, gate_params=1, gmacs=1.0, saved_mib=1.0)
    counted |= dict(inference_milliseconds=1.0, step_milliseconds=1.0)
    monkeypatch.setattr(comparison, 'costs', lambda runs: [dict(counted) for _ in runs])


def compare(command, out, *more):
    return command(
        'attention',
        'compare',
        '--out',
        out,
        '--seeds',
        2,
        '--mechanisms',
        *MECHANISMS,
        *more,
    )


@pytest.mark.slow
def test_table_plot_and_record(command, trained, tmp_path):
    out = tmp_path / 'out'
    code, text, err = compare(command, out)
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    # Means of two seeds that are 0.01 apart, and their sample deviation.
    for name, box in (('none', '50.5'), ('eca', '60.5'), ('bam', '55.5')):
        assert f'{box} ± 0.7' in lines[name]
    assert '25.2 ± 0.4' in lines['none']
    assert 'standard error of 0.7; the means are 10.0 apart at most' in text
    assert 'What it cannot show' in text
    found = json.loads((out / 'comparison.json').read_text())
    rows = {row['mechanism']: row for row in found['rows']}
    assert rows['eca']['ap']['bbox']['by_seed'] == pytest.approx([60, 61])
    assert rows['none']['gate_params'] == 0
    # Kernel sizes of ResNet-18, two blocks a stage.
    assert rows['eca']['gate_params'] == 2 * (3 + 5 + 7 + 7)
    for name in ('none', 'eca'):
        gates = rows[name]['gate_params']
        assert rows[name]['params'] == rows['none']['params'] + gates
    assert all(row['step_milliseconds'] > 0 for row in found['rows'])
    assert '| eca' in (out / 'comparison.md').read_text()
    picture = cv2.imread(str(out / 'comparison.png'))
    assert picture is not None and picture.std() > 5
    assert '[6/6] bam, seed 1: box AP 56.0, 7 s' in err


def test_finished_runs_are_kept(command, trained, uncounted, tmp_path):
    """Also when mechanisms and seeds are added; a damaged one is made again."""
    out = tmp_path / 'out'
    assert compare(command, out)[0] == 0
    assert len(trained) == 6
    code, _, err = compare(command, out)
    assert code == 0 and len(trained) == 6
    assert err.count('measured before') == 6
    assert compare(command, out, '--seeds', 3)[0] == 0
    assert len(trained) == 9
    damaged = next((out / 'runs').glob('mask-eca-seed1-*/metrics.json'))
    damaged.write_text('{"attention"')
    assert compare(command, out)[0] == 0
    assert len(trained) == 10 and '--attention eca --seed 1' in ' '.join(trained[-1])


@pytest.mark.sweep
@pytest.mark.parametrize(
    'change',
    [
        {'results': {'bbox': {}}},
        {'results': {'bbox': {'metrics': {'AP': 'high'}}}},
        {'results': []},
        {'results': {}},
        {'seconds': None, 'seed': 5},
        {'attention': 'cbam'},
    ],
    ids=str,
)
def test_damaged_records_are_made_again(command, trained, uncounted, tmp_path, change):
    assert compare(command, tmp_path)[0] == 0
    path = next((tmp_path / 'runs').glob('mask-eca-seed1-*/metrics.json'))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert compare(command, tmp_path)[0] == 0
    assert len(trained) == 7


def test_files_in_the_place_of_run_folders(command, trained, uncounted, tmp_path):
    assert compare(command, tmp_path)[0] == 0
    folder = next((tmp_path / 'runs').glob('mask-eca-seed1-*'))
    (folder / 'metrics.json').unlink()
    folder.rmdir()
    folder.write_text('')
    folder.with_name(f'{folder.name}.partial').write_text('')
    assert compare(command, tmp_path)[0] == 0
    assert len(trained) == 7 and (folder / 'metrics.json').is_file()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'runs').write_text('')
    code, _, err = compare(command, tmp_path / 'other')
    assert code == 2 and 'cannot be made' in err


def test_a_folder_that_cannot_be_written_to(command, trained, tmp_path):
    (tmp_path / '.training').mkdir()
    code, _, err = compare(command, tmp_path)
    assert code == 2 and '[file-not-written]' in err


def test_hidden_files_do_not_matter(command, trained, uncounted, tmp_path):
    """What a killed call left half-written, or the system put there."""
    (tmp_path / '.comparison.json.x.partial').write_text('')
    assert compare(command, tmp_path)[0] == 0


def test_a_second_call_in_one_folder_is_refused(
    command, trained, tmp_path, monkeypatch
):
    def other_process_holds_it(*_):
        raise BlockingIOError

    monkeypatch.setattr(fcntl, 'lockf', other_process_holds_it)
    code, out, err = compare(command, tmp_path)
    assert (code, out) == (2, '') and len(trained) == 0
    assert '[folder-in-use]' in err and '--out' in err


def test_other_detector_and_quick_runs_are_other_runs(
    command, trained, uncounted, tmp_path
):
    out = tmp_path / 'out'
    assert compare(command, out)[0] == 0
    code, text, _ = compare(command, out, '--detector', 'faster')
    assert code == 0 and len(trained) == 12 and 'mask AP' not in text
    code, text, _ = compare(command, out, '--quick', '--json')
    found = json.loads(text)
    assert code == 0 and len(trained) == 18 and found['quick']
    assert 'says nothing about the mechanisms' in found['note']
    assert '--quick' in trained[-1]


def test_seeds_come_one_after_the_other(command, trained, uncounted, tmp_path):
    """What an interruption leaves is a comparison of fewer seeds."""
    assert compare(command, tmp_path / 'out')[0] == 0
    seeds = [one[one.index('--seed') + 1] for one in trained]
    assert seeds == ['0', '0', '0', '1', '1', '1']


def test_failed_training_is_named(command, monkeypatch, mmdet_ready, tmp_path):
    program = tmp_path / 'python'
    program.write_text('#!/bin/sh\necho something\necho the disk is full\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(program))
    code, out, err = compare(command, tmp_path / 'out')
    assert (code, out) == (2, '')
    reason = 'none, seed 0: the training failed: exit code 3: the disk is full (all of'
    assert reason in err and err.endswith('[run-failed]\n')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--mechanisms', 'none', 'cbma'), 'Did you mean cbam'),
        (('--mechanisms', 'all', 'cbma'), 'Did you mean cbam'),
        (('--seeds', '0'), 'must be 1 or more'),
    ],
)
def test_refused_arguments(command, tmp_path, arguments, message):
    try:
        code, _, err = command('attention', 'compare', '--out', tmp_path, *arguments)
    except SystemExit as error:
        code, err = error.code, message
    assert code == 2 and message in err


def test_a_folder_of_something_else_is_refused(command, tmp_path):
    (tmp_path / 'thesis.tex').write_text('')
    code, _, err = command('attention', 'compare', '--out', tmp_path)
    assert code == 2 and "'thesis.tex' in it, which is not of this command" in err
    (tmp_path / 'file').write_text('')
    code, _, err = command('attention', 'compare', '--out', tmp_path / 'file')
    assert code == 2 and 'cannot be a folder' in err


def test_all_means_every_mechanism():
    from eca_mmdet.catalog.mechanisms import KEYS

    assert comparison.resolve_mechanisms(['all']) == ['none', *KEYS]
    assert comparison.resolve_mechanisms(['eca', 'none', 'Eca']) == ['eca', 'none']
    with pytest.raises(UserError):
        comparison.resolve_mechanisms(['Ecs'])


def row(*values):
    deviation = 1.0 if len(values) > 1 else None
    mean = sum(values) / len(values)
    return {'ap': {'bbox': dict(by_seed=values, mean=mean, deviation=deviation)}}


def test_note():
    note = comparison.note
    assert 'use --seeds 3' in note([row(1.0), row(2.0)], quick=False)
    alone = note([row(1.0, 3.0)], quick=False)
    assert 'differ by 1.0 box AP' in alone and '--seeds' not in alone
    assert 'apart at most' not in alone
    assert 'standard error of 1.0; the means are 4.0 apart' in note(
        [{'ap': {}}, row(1.0, 3.0), row(5.0, 7.0)], quick=False
    )


def test_a_run_of_another_version_has_another_folder(mmdet_ready, monkeypatch):
    before = Run('eca', 0, 'mask', False).name
    monkeypatch.setattr(comparison, 'versions', lambda: {'torch': '9'})
    assert Run('eca', 0, 'mask', False).name != before


def test_times_stand_under_their_names(mmdet_ready, monkeypatch):
    from eca_mmdet.analysis import attention as mechanisms
    from eca_mmdet.analysis import complexity

    monkeypatch.setattr(mechanisms, 'time_layers', lambda layers, shape, rounds: [3])
    monkeypatch.setattr(complexity, 'training_steps', lambda backbones, shape: [7])
    (found,) = comparison.costs([Run('none', 0, 'retinanet', True)])
    assert found['inference_milliseconds'] == 3 and found['step_milliseconds'] == 7


def test_a_run_of_another_config_has_another_folder(mmdet_ready, tmp_path):
    runs = [
        Run('eca', 0, 'mask', False),
        Run('eca', 0, 'mask', True),
        Run('eca', 1, 'mask', False),
        Run('cbam', 0, 'mask', False),
        Run('eca', 0, 'faster', False),
    ]
    assert len({run.name for run in runs}) == 5
    assert [run.config.train_cfg.max_iters for run in runs[:2]] == [520, 12]


@pytest.mark.slow
def test_interrupted_comparison_goes_on(command, mmdet_ready, tmp_path):
    """Real trainings: ctrl-C in the second, then the same command again."""
    out = tmp_path / 'out'
    words = [PYTHON, '-m', 'eca_mmdet.cli', 'attention', 'compare', '--quick']
    words += ['--seeds', '1', '--detector', 'retinanet', '--out', str(out)]
    words += ['--mechanisms', 'none', 'se-var1']
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_interrupts,
        start_new_session=True,
    )
    for line in process.stderr:
        if '[2/2] se-var1, seed 0: training' in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert 'stopped in se-var1, seed 0; finished runs are kept' in err
    assert 'Traceback' not in err
    finished = [
        one.name for one in (out / 'runs').glob('*-*/') if 'partial' not in one.name
    ]
    assert len(finished) == 1 and finished[0].startswith('retinanet-none-seed0')
    code, printed, err = command(*words[3:])
    assert code == 0, err
    assert '[1/2] none, seed 0: box AP' in err
    assert err.count('measured before') == 1
    assert re.search(r'^se-var1 +\d', printed, re.M)
    assert not list((out / 'runs').glob('*.partial'))
