"""``eca-mmdet doctor`` in temporary venvs: each fault has its line and its command."""

import json

import pytest

from tests.conftest import REPOSITORY
from tests.support.doctor_venvs import MMDET_3_3, TORCH, Venv, plain, write_distribution

LITE = '-m pip install --no-deps --force-reinstall mmcv-lite==2.1.0'
NO_OPS = 'mmcv operators'


@pytest.fixture
def environment(tmp_path):
    return Venv(tmp_path)


def faults_of(report):
    return {one['name']: one for one in report['findings'] if one['state'] == 'fault'}


def warnings_of(report):
    return {one['name']: one for one in report['findings'] if one['state'] == 'warning'}


@pytest.mark.parametrize('line', ['openmmlab', 'onedl'])
def test_sound_stubs_have_no_fault(tmp_path, line):
    """What the cases below change is all that can be wrong in them."""
    code, report = Venv(tmp_path, line).report()
    assert (code, faults_of(report), warnings_of(report)) == (0, {}, {})
    states = {one['name']: one['state'] for one in report['findings']}
    assert states['mmdet'] == states['mmcv'] == states[NO_OPS] == 'ok'
    assert report['faults'] == report['warnings'] == report['unknowns'] == 0


def no_mmdet(environment):
    environment.remove('mmdet', 'mmdet')


def no_mmdet_line(environment):
    no_mmdet(environment)
    environment.remove('mmcv-lite', 'mmcv')
    environment.remove('mmengine', 'mmengine')


def no_torchvision(environment):
    environment.remove('torchvision', 'torchvision')


def mmcv_2_2(environment):
    environment.remove('mmcv-lite', 'mmcv')
    environment.mmcv('mmcv', '2.2.0')


def mmcv_2_2_without_metadata(environment):
    """As above, where only mmdet's assertion tells."""
    mmcv_2_2(environment)
    environment.put('mmdet', '3.3.0', {'mmdet/__init__.py': MMDET_3_3})


def two_mmcv(environment):
    environment.mmcv('mmcv', '2.1.0')


def four_mmcv(environment):
    environment.mmcv('mmcv-full', '1.7.2')
    environment.mmcv('onedl-mmcv', '2.3.6')
    environment.mmcv('mmcv', '2.1.0')
    environment.mmcv('mmcv-lite', '2.1.0')


def other_torchvision(environment):
    files = plain('torchvision', '0.20.1') | {
        'torchvision/ops.py': 'raise RuntimeError('
        "'operator torchvision::nms does not exist')"
    }
    environment.remove('torchvision', 'torchvision')
    environment.put('torchvision', '0.20.1', files, ('torch==2.5.1',))


def torchvision_of_other_build(environment):
    """The versions are a pair; the binaries are not."""
    files = plain('torchvision', '0.21.0') | {
        'torchvision/ops.py': 'raise RuntimeError('
        "'operator torchvision::nms does not exist')"
    }
    environment.put('torchvision', '0.21.0', files, ('torch==2.6.0',))


def no_torch(environment):
    environment.remove('torch', 'torch')


def torch_2_3(environment):
    environment.remove('torch', 'torch')
    text = TORCH.replace('2.6.0', '2.3.1')
    environment.put('torch', '2.3.1', {'torch/__init__.py': text})


def torch_crashes(environment):
    text = 'import os; os.abort()'
    environment.put('torch', '2.6.0', {'torch/__init__.py': text})


def torch_for_numpy_1(environment):
    torch = environment.site / 'torch' / '__init__.py'
    text = f'import warnings\nwarnings.warn({NUMPY_WARNING!r})\n'
    torch.write_text(text + torch.read_text())


NUMPY_WARNING = 'Failed to initialize NumPy: _ARRAY_API not found'


def pycocotools_for_other_numpy(environment):
    message = 'numpy.dtype size changed, may indicate binary incompatibility.'
    text = f'raise ValueError({message!r})'
    environment.put('pycocotools', '2.0.6', {'pycocotools/mask.py': text})
    environment.remove('pycocotools')
    environment.put('pycocotools', '2.0.7', {'pycocotools/mask.py': text})


def no_libgl(environment):
    message = 'libGL.so.1: cannot open shared object file: No such file or directory'
    text = f'raise ImportError({message!r})'
    environment.put('opencv-python', '4.12.0.88', {'cv2/__init__.py': text})


def mmdet_2(environment):
    environment.remove('mmdet', 'mmdet')
    environment.put('mmdet', '2.28.2', plain('mmdet', '2.28.2'))


def both_lines(environment):
    environment.line('onedl')


def both_lines_the_original_last(environment):
    """The files that are there say which line it is."""
    environment.line('onedl')
    environment.line('openmmlab')


def leftover_metadata(environment):
    """Of two distributions one was uninstalled, and with it the files of both."""
    environment.remove('nothing', 'mmcv')


def leftover_folder(environment):
    (environment.site / 'mmcv' / '__init__.py').unlink()


def broken_extension(environment):
    text = 'not a library'
    (environment.site / 'mmcv' / '_ext.so').write_text(text)


def no_pkg_resources(environment):
    environment.remove('setuptools', 'pkg_resources')
    environment.put('setuptools', '84.0')


def missing_requirement(environment):
    environment.remove('tabulate', 'tabulate')


def old_requirement(environment):
    environment.remove('shapely', 'shapely')
    environment.put('shapely', '1.8.5')


def five_independent_faults(environment):
    torch_for_numpy_1(environment)
    pycocotools_for_other_numpy(environment)
    no_pkg_resources(environment)
    missing_requirement(environment)
    old_requirement(environment)


CASES = [
    (no_mmdet, {'mmdet': ('not installed', '-m pip install mmdet==3.3.0')}),
    (
        no_mmdet_line,
        {
            name: (
                'not installed',
                '-m pip install onedl-mmdetection==3.5.1 onedl-mmcv==2.3.6 '
                'onedl-mmengine==0.10.12',
            )
            for name in ('mmdet', 'mmcv', 'mmengine')
        },
    ),
    (
        no_torchvision,
        {'torchvision': ('not installed', "torch==2.6.0 'torchvision>=0.19'")},
    ),
    (
        mmcv_2_2,
        {
            'mmcv': (
                'mmcv 2.2.0: mmdet 3.3.0 needs mmcv<2.2.0,>=2.0.0rc4',
                '-m pip uninstall -y mmcv && ',
                LITE,
            ),
            'mmdet': ('MMCV==2.2.0 is used but incompatible', LITE),
        },
    ),
    (
        mmcv_2_2_without_metadata,
        {
            'mmcv': None,
            'mmdet': (
                'MMCV==2.2.0 is used but incompatible',
                'uninstall -y mmcv',
                LITE,
            ),
        },
    ),
    (
        two_mmcv,
        {
            'mmcv': (
                'mmcv-lite 2.1.0 and mmcv 2.1.0 are installed over each other',
                '-m pip uninstall -y mmcv-lite mmcv && ',
                LITE,
            )
        },
    ),
    (
        four_mmcv,
        {'mmcv': ('installed over', 'onedl-mmcv mmcv-lite mmcv mmcv-full && ', LITE)},
    ),
    (
        other_torchvision,
        {
            'torchvision': (
                'torchvision 0.20.1 was not built for torch 2.6.0',
                "-m pip install torch==2.6.0 'torchvision>=0.19'",
            ),
        },
    ),
    (
        torchvision_of_other_build,
        {
            'torchvision': (
                'does not import: RuntimeError: operator torchvision::nms',
                '--no-deps --force-reinstall torchvision==0.21.0',
            ),
        },
    ),
    (no_torch, {'torch': ('not installed', "'torch>=2.4' 'torchvision>=0.19'")}),
    (
        torch_2_3,
        {
            'torch': (
                'torch 2.3.1: eca-mmdet needs torch>=2.4',
                "install 'torch>=2.4' 'torchvision>=0.19'",
            ),
            'torchvision': None,
        },
    ),
    (torch_crashes, {'torch': ('importing it ended Python with signal 6', 'torch')}),
    (
        no_libgl,
        {
            'opencv': (
                'libraries of a desktop: libGL.so.1',
                'uninstall -y opencv-python && ',
                'opencv-python-headless==4.12.0.88',
            )
        },
    ),
    (mmdet_2, {'mmdet': ('mmdet 2.28.2: mmdet 3 is needed', 'mmdet==3.3.0')}),
    (
        both_lines,
        {name: ('installed over', 'uninstall') for name in ('mmdet', 'mmcv')}
        | {'mmengine': ('installed over', 'onedl-mmengine==0.10.12')},
    ),
    (
        both_lines_the_original_last,
        {
            'mmdet': ('installed over', 'mmdet==3.3.0'),
            'mmcv': ('installed over', LITE),
            'mmengine': ('installed over', 'mmengine==0.10.7'),
        },
    ),
    (leftover_metadata, {'mmcv': ('its files are gone', LITE)}),
    (leftover_folder, {'mmcv': ('its files are gone', LITE)}),
    (
        five_independent_faults,
        {
            'torch': ('was built for another numpy', "install 'numpy<2'"),
            'pycocotools': (
                'pycocotools 2.0.7 was built for another numpy than numpy 2.2.6',
                '--no-deps --force-reinstall pycocotools',
            ),
            'setuptools': ('has no pkg_resources', "install 'setuptools<80.9'"),
            'tabulate': ('not installed', "install 'tabulate>=0.9'"),
            'shapely': ('shapely 1.8.5: eca-mmdet needs', "install 'shapely>=2'"),
        },
    ),
    (broken_extension, {NO_OPS: ('does not import: ImportError: ', LITE)}),
]


@pytest.mark.parametrize(
    ('change', 'expected'), CASES, ids=lambda x: getattr(x, '__name__', '')
)
def test_each_fault_has_its_line_and_command(environment, change, expected):
    """The faults are those that are expected, and no others."""
    change(environment)
    code, report = environment.report()
    found = faults_of(report)
    assert code == 1
    assert found.keys() == {name for name, parts in expected.items() if parts}
    for name, one in found.items():
        text, *commands = expected[name]
        assert text in one['text']
        assert '\n' not in one['text'] + one['mend']
        for command in commands:
            assert command in one['mend']
        if ' pip ' in one['mend']:
            assert one['mend'].startswith(f'{environment.python} -m pip ')


def test_text_names_fault_and_command(environment):
    mmcv_2_2(environment)
    code, out, err = environment.doctor()
    assert code == 1
    lines = out.splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith('fault'))
    assert lines[index].startswith('fault    mmcv: mmcv 2.2.0: mmdet 3.3.0 needs')
    assert lines[index + 1].strip() == (
        f'fix: {environment.python} -m pip uninstall -y mmcv && '
        f'{environment.python} {LITE}'
    )
    assert 'unknown  self test: skipped; fix first: mmcv, mmdet' in lines
    assert lines[-1].startswith('2 faults')
    assert 'Traceback' not in err


def test_own_installation(environment):
    environment.remove('eca-mmdet')
    code, report = environment.report()
    assert code == 0  # what it requires is not known, and nothing else is wrong
    warned = warnings_of(report)['eca-mmdet']
    assert 'which is not installed' in warned['text']
    assert f'{REPOSITORY}[openmmlab]' in warned['mend']


def test_no_packaging(environment):
    """Versions cannot be judged then, but imports can."""
    (environment.site / 'packaging').unlink()
    code, report = environment.report()
    assert (code, report['unknowns']) == (1, 0)
    (fault,) = faults_of(report).values()
    assert (fault['name'], fault['automatic']) == ('packaging', True)
    assert fault['mend'] == f'{environment.python} -m pip install packaging'


@pytest.mark.parametrize('change', [no_torchvision, other_torchvision])
def test_operators_wait_for_torchvision(environment, change):
    change(environment)
    _, report = environment.report()
    states = {finding['name']: finding['state'] for finding in report['findings']}
    assert (states['torchvision'], states[NO_OPS]) == ('fault', 'unknown')


def test_unreadable_metadata(environment):
    """Only what needs them is not judged."""
    environment.put('mmdet', 'odd-version', {}, ('mmcv>=2.0.0rc4,<oops', 'no name?'))
    environment.remove('nothing', 'mmdet-3.3.0.dist-info')
    _, report = environment.report()
    states = {finding['name']: finding['state'] for finding in report['findings']}
    assert states['mmcv'] == states['torch'] == 'ok'


def test_python_that_does_not_start(environment):
    """Children fail at once; the doctor, which runs already, goes on."""
    text = 'import os\nif "CHILD" in os.environ: os._exit(7)\nos.environ["CHILD"] = "1"'
    (environment.site / 'sitecustomize.py').write_text(text)
    code, report = environment.report()
    assert code == 1
    text = faults_of(report)['python']['text']
    assert text == 'a new Python process does not start: ended Python with exit code 7'


def test_compiled_operators_are_left_alone(environment):
    """They work, so that --fix must not replace the mmcv that has them."""
    (environment.site / 'mmcv' / '_ext.py').write_text('')
    environment.mmcv('mmcv', '2.1.0')
    code, report = environment.report('--fix')
    fault = faults_of(report)['mmcv']
    assert (code, fault['automatic'], report['fix']) == (1, False, [])
    assert environment.pip_calls() == []
    _, out, _ = environment.doctor('--no-self-test')
    assert '(manual: it would remove an mmcv whose compiled operators work)' in out


def test_json_is_one_object_whatever_packages_print(environment):
    text = 'print("noise")\n' + MMDET_3_3 + 'import os; os.write(1, b"more noise")\n'
    environment.put('mmdet', '3.3.0', {'mmdet/__init__.py': text})
    code, out, _ = environment.doctor('--json')
    report = json.loads(out)
    keys = {'name', 'state', 'text', 'mend', 'automatic', 'by_hand'}
    assert set(report['findings'][0]) == keys
    assert out.startswith('{') and out.endswith('}\n')
    # The stubs cannot build a detector, and that is a fault with a command too.
    fault = faults_of(report)['self test']
    assert code == 1 and 'cpu: ' in fault['text'] and fault['mend']


def test_what_pip_did_not_install_is_never_replaced(environment):
    info = environment.put('mmdet', '2.28.2', plain('mmdet', '2.28.2'))
    link = {'url': 'file:///home/me/mmdetection', 'dir_info': {'editable': True}}
    (info / 'direct_url.json').write_text(json.dumps(link))
    environment.remove('nothing', 'mmdet-3.3.0.dist-info')
    code, report = environment.report('--fix')
    assert (code, report['fix'], environment.pip_calls()) == (1, [], [])
    reason = 'mmdet is an editable install of file:///home/me/mmdetection'
    assert faults_of(report)['mmdet']['by_hand'] == reason
    (info / 'direct_url.json').unlink()
    (info / 'INSTALLER').write_text('conda\n')
    reason = 'mmdet was installed by conda'
    assert faults_of(environment.report()[1])['mmdet']['by_hand'] == reason


def wheel(environment, wanted, name, version, files):
    write_distribution(environment.wheel(wanted), name, version, files)


def test_fix_runs_pip_and_examines_again(environment):
    """Two faults: the commands are run one by one, and nothing else."""
    two_mmcv(environment)
    missing_requirement(environment)
    environment.mmcv('mmcv-lite', '2.1.0', environment.wheel('mmcv-lite==2.1.0'))
    wheel(environment, 'tabulate>=0.9', 'tabulate', '0.10', None)
    code, out, err = environment.doctor('--fix', '--no-self-test')
    assert environment.pip_calls() == [
        [*LITE.split()[2:], '--dry-run'],
        ['uninstall', '-y', 'mmcv-lite', 'mmcv'],
        ['install', '--no-deps', '--force-reinstall', 'mmcv-lite==2.1.0'],
        ['install', 'tabulate>=0.9'],
    ]
    assert code == 0
    assert 'fault' not in out.partition('what remains:')[2]
    shown = f'to fix mmcv: {environment.python} -m pip uninstall -y mmcv-lite mmcv &&'
    assert err.index(shown) < err.index('Successfully did uninstall')
    assert environment.report()[1]['faults'] == 0


def test_fix_that_fails_is_one_line_and_the_others_go_on(environment):
    mmcv_2_2(environment)
    missing_requirement(environment)
    wheel(environment, 'tabulate>=0.9', 'tabulate', '0.10', None)
    code, report = environment.report('--fix')
    assert code == 1
    failed, fixed = report['fix']
    assert failed['error'] == (
        'ERROR: No matching distribution found for mmcv-lite==2.1.0 '
        '(nothing was removed)'
    )
    assert (fixed['name'], fixed['error']) == ('tabulate', '')
    assert [words[0] for words in environment.pip_calls()] == ['install', 'install']
    assert faults_of(report).keys() == {'mmcv', 'mmdet'}
    assert 'mmcv 2.2.0' in faults_of(report)['mmcv']['text']


def test_fix_without_a_fault_changes_nothing(environment):
    code, report = environment.report('--fix')
    assert (code, report['fix'], environment.pip_calls()) == (0, [], [])


def test_fix_without_pip_says_so(environment):
    environment.remove('pip', 'pip')
    missing_requirement(environment)
    code, out, err = environment.doctor('--fix', '--no-self-test')
    assert code == 1
    assert 'nothing is changed: ' in err and 'has no pip' in err
    assert 'install' in next(x for x in out.splitlines() if 'tabulate>=0.9' in x)
    assert 'pip' in warnings_of(environment.report()[1])


def test_torch_is_not_replaced_by_fix(environment):
    torch_2_3(environment)
    code, report = environment.report('--fix')
    assert (code, report['fix']) == (1, [])
    assert faults_of(report)['torch']['automatic'] is False
