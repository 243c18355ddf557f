"""The doctor's parts: processes that end badly, the machine, and the whole of it."""

import json
import os
import sysconfig

import pytest

from eca_mmdet.doctor import fixes as mending
from eca_mmdet.doctor import machine_checks, python_checks, torch_checks
from eca_mmdet.doctor.environment import Scene
from eca_mmdet.doctor.finding import Finding, counts, pip
from eca_mmdet.doctor.probe import Result, probe
from eca_mmdet.doctor.self_test import self_test
from tests.conftest import PYTHON

GIB = 2**30


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
    # What a process printed before it died is told: it may be the reason.
    results = probe([*names, 'bad_text', 'bad_missing'], limit_s=2)
    assert results['good'].value['version'] == '1'
    said = {name: (results[name].error, results[name].message) for name in names}
    assert said['bad_abort'] == ('died', 'ended Python with SIGABRT')
    assert said['bad_kill'] == ('died', 'ended Python with SIGSEGV ([1])')
    assert said['bad_exit'] == ('SystemExit', 'enough')
    assert said['bad_os_exit'] == ('died', 'ended Python with exit code 3 (why)')
    assert said['bad_hang'] == ('died', 'did not end within 2 s')
    assert results['bad_text'].message == r'first second \x1b[31m'
    assert results['bad_missing'].missing == 'bad_missing'


def test_what_a_failed_step_carries_is_not_tried(module):
    module('cv2', 'raise RuntimeError')
    module('mmengine', '')
    results = probe(['cv2', 'mmengine', 'mmcv', 'mmcv._ext', 'mmdet'])
    assert results['mmengine'].works
    blocked = [results[name].blocked_by for name in ('mmcv', 'mmcv._ext', 'mmdet')]
    assert blocked == ['cv2', 'mmcv', 'mmcv']


def test_in_a_folder_that_was_deleted(module, tmp_path, monkeypatch):
    module('good', 'import os; os.getcwd()')
    gone = tmp_path / 'gone'
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert probe(['good'])['good'].works
    first = machine_checks.check_folders(Scene({}))[0]
    assert (first.name, first.state) == ('work folder', 'fault')


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A machine of 8 CPUs; the files of a control group are written by the test."""
    monkeypatch.setattr(machine_checks, 'CGROUP', tmp_path)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace('__', '/').replace('_of_', '.')
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        ({}, 8),
        ({'cpu_of_max': 'max 100000'}, 8),
        ({'cpu_of_max': '150000 100000'}, 1.5),
        ({'cpu_of_max': '1600000 100000'}, 8),
        ({'cpu_of_max': 'nonsense'}, 8),
        ({'cpu_of_max': '1 0'}, 8),
        (
            {
                'cpu__cpu_of_cfs_quota_us': '200000',
                'cpu__cpu_of_cfs_period_us': '100000',
            },
            2,
        ),
        ({'cpu__cpu_of_cfs_quota_us': '-1', 'cpu__cpu_of_cfs_period_us': '100000'}, 8),
    ],
)
def test_cores_of_containers(cgroup, files, expected):
    cgroup(**files)
    assert machine_checks.cores() == expected


@pytest.mark.parametrize(
    ('value', 'torch', 'state', 'part'),
    [
        ('2', 1, 'ok', '2 CPUs, OMP_NUM_THREADS=2'),
        ('3', 1, 'warning', 'OMP_NUM_THREADS=3 on 2 CPUs'),
        ('0', 1, 'warning', 'OMP_NUM_THREADS=0 on 2 CPUs'),
        ('all', 1, 'warning', "'all' is no number"),
        ('2,1', 1, 'ok', 'OMP_NUM_THREADS=2,1'),
        (None, 8, 'warning', 'torch starts 8 threads on 2 CPUs'),
        (None, 2, 'ok', '2 CPUs'),
    ],
)
def test_threads(cgroup, monkeypatch, value, torch, state, part):
    cgroup(cpu_of_max='200000 100000')
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if value is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', value)
    scene = Scene({}, {'torch': Result(value={'threads': torch})})
    (found,) = machine_checks.check_threads(scene)
    assert found.state == state and part in found.text
    if state == 'warning':
        assert found.mend.text == 'export OMP_NUM_THREADS=2'


@pytest.mark.parametrize(
    ('limit', 'used', 'state'),
    [
        ('max', 0, 'ok'),
        (6, 1, 'ok'),
        (6, 3, 'warning'),
        (6, 5.5, 'fault'),
        (1, 2, 'fault'),
    ],
)
def test_memory_of_containers(cgroup, monkeypatch, limit, used, state):
    read = machine_checks._text
    meminfo = 'MemTotal: 9 kB\nMemAvailable:    16777216 kB'  # 16 GiB
    monkeypatch.setattr(
        machine_checks, '_text', lambda p: meminfo if p.name == 'meminfo' else read(p)
    )
    maximum = limit if limit == 'max' else str(limit * GIB)
    cgroup(memory_of_max=maximum, memory_of_current=str(int(used * GIB)))
    expected = 16 * GIB if limit == 'max' else max(0, int((limit - used) * GIB))
    assert machine_checks.free_memory() == expected
    (found,) = machine_checks.check_memory(Scene({}))
    assert found.state == state


def test_disk_and_folders(tmp_path, monkeypatch):
    class Usage:
        free = total = 0

    monkeypatch.setattr(machine_checks.shutil, 'disk_usage', lambda path: Usage)
    for free, state in ((0.4, 'fault'), (2, 'warning'), (9, 'ok')):
        Usage.free = Usage.total = free * GIB
        (found,) = machine_checks.check_folder('work folder', tmp_path / 'a' / 'b', 'x')
        assert (found.state, list(tmp_path.iterdir())) == (state, [])
    (tmp_path / 'file').write_text('')
    (found,) = machine_checks.check_folder('work folder', tmp_path / 'file' / 'b', 'x')
    assert found.state == 'fault' and 'cannot be written: Not a directory' in found.text
    for total, state in ((64, 'warning'), (256, 'ok')):
        Usage.total = total * 2**20
        (found,) = machine_checks.check_shared_memory(Scene({}))
        assert found.state == state


def test_weights_cache_is_torchs(monkeypatch):
    import torch

    for variables in ({}, {'XDG_CACHE_HOME': '/x'}, {'TORCH_HOME': '~/y'}):
        for name in ('XDG_CACHE_HOME', 'TORCH_HOME'):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(machine_checks.weights_cache()) == torch.hub.get_dir()


def test_few_open_files(monkeypatch):
    import resource

    for soft, state in ((256, 'warning'), (1024, 'ok'), (resource.RLIM_INFINITY, 'ok')):
        monkeypatch.setattr(resource, 'getrlimit', lambda _, soft=soft: (soft, -1))
        (found,) = machine_checks.check_open_files(Scene({}))
        assert found.state == state


CARD = 'NVIDIA A100, 470.82'
OLD_DRIVER = 'The NVIDIA driver on your system is too old (found version 11040).'


@pytest.mark.parametrize(
    ('cards', 'built', 'result', 'hidden', 'state', 'part'),
    [
        ([], None, Result(value={'devices': []}), None, 'ok', 'no NVIDIA GPU'),
        ([CARD], None, Result(value={'devices': []}), None, 'warning', 'has no CUDA'),
        (
            [CARD],
            '12.4',
            Result(value={'devices': []}, warnings=(OLD_DRIVER,)),
            None,
            'fault',
            'too old (found version 11040)',
        ),
        ([CARD], '12.4', Result(value={'devices': []}), '', 'warning', 'hides NVIDIA'),
        (
            [CARD],
            '12.4',
            Result(value={'devices': [['A100', 40 * GIB]]}),
            None,
            'ok',
            'CUDA 12.4: A100 (40 GiB)',
        ),
        (
            [CARD],
            '12.4',
            Result(error='RuntimeError', message='no kernel image is available'),
            None,
            'fault',
            'cannot use it: no kernel image',
        ),
    ],
)
def test_cuda(monkeypatch, cards, built, result, hidden, state, part):
    monkeypatch.setattr(torch_checks, 'graphics_cards', lambda: cards)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if hidden is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
    torch = Result(value={'cuda': built})
    (found,) = torch_checks.check_cuda(Scene({}, {'torch': torch, 'cuda': result}))
    assert found.state == state and part in found.text
    assert (found.mend is None) == (state == 'ok')
    if found.mend:
        assert not found.mend.automatic


def test_driver_that_does_not_answer(tmp_path, monkeypatch):
    program = tmp_path / 'nvidia-smi'
    for text, expected in (
        ('echo "A100, 1"; echo "A100, 1"', ['A100, 1'] * 2),
        ('echo broken; exit 9', []),
        ('sleep 20', []),
    ):
        program.write_text(
            f'#!/bin/sh\nexec 2>&1\n{text}\n'.replace('sleep', 'exec sleep')
        )
        program.chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
        monkeypatch.setattr(torch_checks, 'GPU_LIST_LIMIT_S', 1)
        assert torch_checks.graphics_cards() == expected


def test_commands_are_of_this_python():
    mend = pip(['install', 'numpy<2'])
    assert mend.text == f"{PYTHON} -m pip install 'numpy<2'"
    assert mend.automatic and not pip(['install', 'x'], by_hand='why').automatic
    assert counts([Finding('a', 'fault', ''), Finding('b', 'ok', '')])['faults'] == 1


def test_obstacles_to_fixing(tmp_path, monkeypatch):
    """A system's Python is not changed; one that others may share is told of."""
    fault = Finding('x', 'fault', 'text', pip(['install', 'no-such']))
    said = []

    def mend():
        said.clear()
        return mending.mend_all([fault], lambda: [], said.append)

    monkeypatch.setattr(python_checks, 'kind_of_environment', lambda: '')
    monkeypatch.setattr(mending, 'kind_of_environment', lambda: '')
    monkeypatch.setattr(mending, 'run_pip', lambda words, say: 'not tried')
    real = sysconfig.get_path
    monkeypatch.setattr(
        sysconfig, 'get_path', lambda n: str(tmp_path) if n == 'stdlib' else real(n)
    )
    findings, done = mend()
    assert 'is neither a venv nor conda' in said[0]
    assert (findings, [one.error for one in done]) == ([], ['not tried'])
    (tmp_path / 'EXTERNALLY-MANAGED').write_text('')
    assert mend() == ([fault], [])
    assert said[0].startswith('nothing is changed: this Python belongs to the system')
    (found,) = python_checks.check_pip(Scene({}))
    assert found.state == 'warning' and found.mend.text.endswith('-m venv .venv')


def test_a_fault_that_pip_could_not_mend_is_left(monkeypatch):
    """Also where its command is another one then."""
    monkeypatch.setattr(mending, 'obstacle', lambda: '')
    monkeypatch.setattr(mending, 'run_pip', lambda words, say: 'ERROR: no')
    faults = [
        Finding(name, 'fault', '', pip(['install', f'{name}{index}']))
        for index in range(3)
        for name in ('one', 'other')
    ]
    looks = iter((faults[2:4], faults[4:6]))
    findings, done = mending.mend_all(faults[:2], lambda: next(looks), lambda _: None)
    assert [one.name for one in done] == ['one', 'other']
    assert findings == faults[4:6]


def test_self_test_that_hangs():
    (found,) = self_test(limit_s=0.2)
    assert found.state == 'fault' and 'did not end within 0.2 s' in found.text
    assert found.mend


def test_self_test_looks_at_loss_and_gates(mmdet_ready, monkeypatch):
    import torch

    from eca_mmdet.doctor import self_test_run

    build = self_test_run.tiny_detector
    found = self_test_run.try_on('cpu')
    assert found['gates'] == 8  # two blocks in each of four stages
    assert 0 < found['loss'] < 20

    def frozen():
        model = build()
        model.backbone.layer3[1].eca.requires_grad_(False)
        return model

    monkeypatch.setattr(self_test_run, 'tiny_detector', frozen)
    with pytest.raises(ArithmeticError, match='a gate has no gradient'):
        self_test_run.try_on('cpu')

    def infinite():
        model = build()
        with torch.no_grad():
            model.roi_head.mask_head.conv_logits.weight.fill_(float('nan'))
        return model

    monkeypatch.setattr(self_test_run, 'tiny_detector', infinite)
    with pytest.raises(ArithmeticError, match='the loss is nan'):
        self_test_run.try_on('cpu')


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
    assert 'roi_align' in found['mmcv operators']['text']
    assert 'its operators load' in found['torchvision']['text']
