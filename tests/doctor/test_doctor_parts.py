"""Parts of the doctor: failing subprocesses, the GPU, --fix, the self-test."""

import json
import sys

import pytest

from eca_mmdet.doctor import checks, fixes
from eca_mmdet.doctor.checks import self_test
from eca_mmdet.doctor.environment import Environment, Result, probe
from eca_mmdet.doctor.fixes import Finding, pip
from tests.conftest import PYTHON


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that the processes find."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f'{name}.py').write_text(text)

    return write


def test_each_bad_end_of_a_process_is_named(module):
    module('bad_abort', 'import os; os.abort()')
    module('bad_kill', 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)')
    module('bad_exit', 'import sys; sys.exit("enough")')
    module('bad_os_exit', 'import os, sys; print("why", file=sys.stderr); os._exit(3)')
    module('bad_hang', 'import time; time.sleep(30)')
    module('bad_text', 'raise RuntimeError("first\\nsecond \\x1b[31m")')
    module('good', 'print("[1]"); __version__ = "1"')
    names = ['bad_abort', 'good', 'bad_kill', 'bad_exit', 'bad_os_exit', 'bad_hang']
    # The last line that a process printed may be the reason why it died.
    results = probe([*names, 'bad_text', 'bad_missing'], limit_s=2)
    assert results['good'].value['version'] == '1'
    said = {name: (results[name].error, results[name].message) for name in names}
    assert said['bad_abort'] == ('died', 'ended Python with signal 6 (Aborted)')
    assert said['bad_kill'] == (
        'died',
        'ended Python with signal 11 (Segmentation fault) ([1])',
    )
    assert said['bad_exit'] == ('SystemExit', 'enough')
    assert said['bad_os_exit'] == ('died', 'ended Python with exit code 3 (why)')
    assert said['bad_hang'] == ('died', 'did not end within 2 s')
    assert results['bad_text'].message == r'first second \x1b[31m'
    assert results['bad_missing'].missing == 'bad_missing'


def test_steps_that_need_a_failed_one_are_not_run(module):
    module('cv2', 'raise RuntimeError')
    module('mmengine', '')
    results = probe(['cv2', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet'])
    assert results['mmengine'].works
    blocked = [results[name].blocked_by for name in ('mmcv', 'mmcv.ops', 'mmdet')]
    assert blocked == ['cv2', 'mmcv', 'mmcv']


def test_in_a_folder_that_was_deleted(module, tmp_path, monkeypatch):
    module('good', '')
    gone = tmp_path / 'gone'
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert probe(['good'])['good'].works


def gpus(built, *devices, warning='other'):
    """Return what the probe finds with torch."""
    value = {'built': built, 'devices': devices}
    return Result(value=value, warnings=('other', f'CUDA initialization: {warning}'))


@pytest.mark.parametrize(
    ('driver', 'result', 'state', 'part'),
    [
        (None, Result(value={'built': None, 'devices': []}), 'ok', 'no NVIDIA GPU'),
        (None, gpus('12.4', warning='Found no NVIDIA driver'), 'ok', 'no NVIDIA GPU'),
        ('x', Result(value={'built': None, 'devices': []}), 'warning', 'a CPU build'),
        ('x', Result(value={'built': '12.4', 'devices': []}), 'ok', 'no NVIDIA GPU'),
        ('x', gpus('12.4', warning='is too old (found'), 'fault', 'too old (found'),
        ('x', gpus('12.4', ['A100', 40 * 2**30]), 'ok', '12.4: A100 (40 GiB)'),
        (
            'x',
            Result(error='RuntimeError', message='no kernel image is available'),
            'fault',
            'cannot use the GPU: no kernel image',
        ),
    ],
)
def test_cuda(monkeypatch, driver, result, state, part):
    monkeypatch.setattr(checks.shutil, 'which', lambda name: driver)
    found = checks.check_cuda(Environment({}, {'cuda': result}))
    assert found.state == state and part in found.text
    assert (found.fix is None) == (state == 'ok')
    assert not (found.fix and found.fix.automatic)


def test_commands_are_of_this_python():
    fix = pip(['install', 'numpy<2'])
    assert fix.text == f"{PYTHON} -m pip install 'numpy<2'"
    assert fix.automatic and not pip(['install', 'x'], by_hand='why').automatic


def test_python_outside_of_venvs_is_not_changed(monkeypatch, caplog):
    fault = Finding('x', 'fault', 'text', pip(['install', 'no-such']))
    monkeypatch.setattr(sys, 'base_prefix', sys.prefix)
    monkeypatch.setattr(fixes, 'run_pip', lambda argv: pytest.fail('pip was run'))
    assert fixes.apply_fixes([fault], list) == ([fault], [])
    reason = f'nothing is changed: {sys.prefix} is neither a venv nor a conda'
    assert caplog.messages[0].startswith(reason)
    _, found, _ = checks.check_python(Environment({}))
    assert found.state == 'warning' and found.text.endswith('-m venv .venv')


def test_a_fault_that_pip_could_not_fix_is_left(monkeypatch):
    """Also if its command is another one then."""
    monkeypatch.setattr(fixes, 'pip_obstacle', lambda: '')
    monkeypatch.setattr(fixes, 'run_pip', lambda argv: 'ERROR: no')
    faults = [
        Finding(name, 'fault', '', pip(['install', f'{name}{index}']))
        for index in range(3)
        for name in ('one', 'other')
    ]
    examinations = iter((faults[2:4], faults[4:6]))
    findings, applied = fixes.apply_fixes(faults[:2], lambda: next(examinations))
    assert [fix['name'] for fix in applied] == ['one', 'other']
    assert findings == faults[4:6]


def test_self_test_that_hangs():
    (found,) = self_test([], limit_s=0.2)
    assert found.state == 'fault' and 'did not end within 0.2 s' in found.text
    assert found.fix


def test_self_test_looks_at_loss_and_gates(mmdet_ready, monkeypatch):
    import torch

    from eca_mmdet.demo import self_test as module

    build = module.tiny_detector
    found = module.run_on('cpu')
    assert found['gates'] == 8  # two blocks in each of four stages
    assert 0 < found['loss'] < 20

    def frozen():
        model = build()
        model.backbone.layer3[1].eca.requires_grad_(False)
        return model

    monkeypatch.setattr(module, 'tiny_detector', frozen)
    with pytest.raises(ArithmeticError, match='a gate has no gradient'):
        module.run_on('cpu')

    def infinite():
        model = build()
        with torch.no_grad():
            model.roi_head.mask_head.conv_logits.weight.fill_(float('nan'))
        return model

    monkeypatch.setattr(module, 'tiny_detector', infinite)
    with pytest.raises(ArithmeticError, match='the loss is nan'):
        module.run_on('cpu')


@pytest.mark.slow
@pytest.mark.openmmlab
def test_this_environment_is_sound(command):
    """The whole of it, on the real packages of each line."""
    code, out, err = command('doctor', '--json')
    report = json.loads(out)
    found = {one['name']: one for one in report['findings']}
    assert [one for one in report['findings'] if one['state'] == 'fault'] == []
    assert (code, report['faults'], report['unknowns']) == (0, 0, 0)
    import mmdet

    assert mmdet.__version__ in found['mmdet']['text']
    assert 'gradients in 8 gates' in found['self test']['text']
    assert 'supplied by eca-mmdet' in found['mmcv operators']['text']
    assert 'its operators load' in found['torchvision']['text']
