"""What an installed user gets: the wheel's configs and its start-up line."""

import subprocess
import zipfile

import pytest

from eca_mmdet import __version__
from eca_mmdet.catalog import configs as paths
from tests.conftest import PYTHON, REPOSITORY


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run(
        [PYTHON, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob('*.whl')
    return zipfile.ZipFile(file)


def test_wheel_carries_every_config(wheel):
    shipped = {
        name.removeprefix('eca_mmdet/.mim/configs/')
        for name in wheel.namelist()
        if name.startswith('eca_mmdet/.mim/configs/')
    }
    root = paths.config_root()
    assert shipped == {
        str(file.relative_to(root))
        for file in root.rglob('*.*')
        if 'pycache' not in str(file)
    }


def test_wheel_offers_the_operators_at_start(wheel):
    line = wheel.read('eca_mmdet_startup.pth').decode()
    assert '/mmcv_ops/extension.py' in line and line.count('\n') == 1
    assert 'eca_mmdet/mmcv_ops/extension.py' in wheel.namelist()


def test_wheel_carries_the_page(wheel):
    folder = REPOSITORY / 'eca_mmdet' / 'reporting' / 'assets'
    for file in folder.iterdir():
        name = f'eca_mmdet/reporting/assets/{file.name}'
        assert wheel.read(name) == file.read_bytes()
    assert len(list(folder.iterdir())) == 6


def test_wheel_is_typed(wheel):
    assert 'eca_mmdet/py.typed' in wheel.namelist()


def test_wheel_asks_for_no_mmdet_line_by_itself(wheel):
    metadata = wheel.read(f'eca_mmdet-{__version__}.dist-info/METADATA').decode()
    required = [
        line for line in metadata.splitlines() if line.startswith('Requires-Dist')
    ]
    plain = [line for line in required if 'extra ==' not in line]
    assert any('torch>=2.4' in line for line in plain)
    assert not [line for line in plain if 'mmdet' in line or 'mmcv' in line]
    extras = ' '.join(line for line in required if 'extra ==' in line)
    parts = ('onedl-mmcv==2.3.6', 'mmcv-lite==2.1.0', 'mmdet==3.3.0', 'setuptools<80.9')
    for part in parts:
        assert part in extras


def test_installed_wheel_finds_its_configs(wheel, tmp_path):
    """Unpacked beside nothing else, as in site-packages."""
    for name in wheel.namelist():
        if name.startswith('eca_mmdet/'):
            wheel.extract(name, tmp_path)
    done = subprocess.run(
        [
            PYTHON,
            '-m',
            'eca_mmdet.cli',
            'configs',
            '--path',
            'retinanet_eca-r50_fpn_4xb2-1x_coco',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(
        tmp_path
        / 'eca_mmdet/.mim/configs/retinanet'
        / 'retinanet_eca-r50_fpn_4xb2-1x_coco.py'
    )
