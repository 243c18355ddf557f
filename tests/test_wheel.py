"""What an installed user gets: the wheel's configs and its start-up line."""

import json
import os
import subprocess
import zipfile

import pytest
from mmengine.config import Config

from eca_mmdet import __version__
from eca_mmdet.catalog import configs as paths
from eca_mmdet.catalog.published import published_rows
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
    assert len(list(folder.iterdir())) == 19


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


@pytest.mark.parametrize('installed', ['checkout', 'wheel'])
def test_mim_reads_the_model_index(installed, wheel, tmp_path):
    """``mim search`` and ``mim download``, with the index at its place in both."""
    pytest.importorskip('mim', reason='of the onedl line only')
    site = tmp_path / 'site'
    if installed == 'wheel':
        wheel.extractall(site)
    else:
        folder = site / f'eca_mmdet-{__version__}.dist-info'
        folder.mkdir(parents=True)
        name = f'eca_mmdet-{__version__}.dist-info/METADATA'
        (folder / 'METADATA').write_bytes(wheel.read(name))
        origin = {'url': REPOSITORY.as_uri(), 'dir_info': {'editable': True}}
        (folder / 'direct_url.json').write_text(json.dumps(origin))

    def mim(*arguments):
        code = 'from mim.cli import cli; cli()'
        return subprocess.run(
            [PYTHON, '-c', code, *arguments],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(site)},
            capture_output=True,
            text=True,
        )

    eca, plain = (f'retinanet_{x}r50_fpn_4xb2-1x_coco' for x in ('eca-', ''))
    done = mim('search', 'eca_mmdet', '--dataset', 'coco', '--json', 'found.json')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'found.json').read_text())
    assert found['config'].keys() == {row.config for row in published_rows()}
    assert found['kernel_sizes'][eca] == '3, 5, 5, 7'
    box_ap = found['coco/box_ap']
    assert (box_ap[eca], box_ap[plain]) == (37.3, 35.6)
    done = mim('download', 'eca_mmdet', '--config', eca, '--dest', 'dest')
    assert done.returncode == 0, done.stderr
    (saved,) = (tmp_path / 'dest').iterdir()
    cfg = Config.fromfile(str(saved))
    assert (cfg.model.type, cfg.model.backbone.type) == ('RetinaNet', 'ECAResNet')


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
