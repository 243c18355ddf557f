"""Throw-away venvs of stub packages, broken as real ones are. No torch in them."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import packaging

from tests.conftest import REPOSITORY

TORCH = """
__version__ = '2.6.0'
class version: cuda = None
class Tensor:
    def to(self, device): return self
def tensor(values): return Tensor()
class cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 0)
"""
NMS = """
class _Kept:
    def tolist(self): return [2, 1]
def nms(boxes, scores, threshold): return {result}
"""
MMCV_OPS = (
    'from torchvision import ops  # which supplies them\nfrom . import _ext\n'
    + NMS.format(result='(None, _Kept())')
    + "def get_compiling_cuda_version(): return 'none'\n"
)
MMDET_3_3 = """
import mmcv, mmengine
__version__ = '3.3.0'
def _number(version): return tuple(int(part) for part in version.split('.')[:2])
assert (2, 0) <= _number(mmcv.__version__) < (2, 2), (
    f'MMCV=={mmcv.__version__} is used but incompatible. '
    'Please install mmcv>=2.0.0rc4, <2.2.0.')
"""
"""As mmdet 3.3.0 asserts."""

MMDET_3_3_REQUIRES = (
    "mmcv<2.2.0,>=2.0.0rc4; extra == 'mim'",
    "mmengine<1.0.0,>=0.7.1; extra == 'mim'",
)
PIP = """
import json, os, pathlib, shutil, sys
site = pathlib.Path(__file__).resolve().parents[1]
house = pathlib.Path(os.environ['STUB_HOUSE'])
words = sys.argv[1:]
with open(house / 'calls.jsonl', 'a') as file:
    file.write(json.dumps(words) + '\\n')
names = [word for word in words[1:] if not word.startswith('-')]
for name in names:
    if words[0] == 'uninstall':
        for info in site.glob(name.replace('-', '_') + '-*.dist-info'):
            for row in (info / 'RECORD').read_text().splitlines():
                (site / row.split(',')[0]).unlink(missing_ok=True)
            shutil.rmtree(info)
    else:
        wheel = house / name
        if not wheel.is_dir():
            print('Collecting', name)
            print(f'ERROR: No matching distribution found for {name}', file=sys.stderr)
            print('afterwards', file=sys.stderr)
            sys.exit(1)
        if '--dry-run' not in words:
            shutil.copytree(wheel, site, dirs_exist_ok=True)
print('Successfully did', words[0])
"""


def write_distribution(folder, name, version, files=None, requires=()):
    """Write a package as pip leaves it: files, metadata and a record."""
    module = name.replace('-', '_')
    files = files or {f'{module}/__init__.py': f'__version__ = {version!r}\n'}
    info = Path(folder) / f'{module}-{version}.dist-info'
    info.mkdir(parents=True, exist_ok=True)
    rows = []
    for path, text in files.items():
        target = Path(folder) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        rows.append(f'{path},,\n')
    (info / 'RECORD').write_text(''.join(rows))
    lines = [f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n']
    lines += [f'Requires-Dist: {one}\n' for one in requires]
    (info / 'METADATA').write_text(''.join(lines))
    return info


class Venv:
    """A venv whose every package is a stub: sound until something is changed."""

    def __init__(self, root, line='openmmlab'):
        self.root = Path(root)
        venv.create(self.root / 'venv', with_pip=False, symlinks=True)
        self.python = self.root / 'venv' / 'bin' / 'python'
        name = f'python{sys.version_info[0]}.{sys.version_info[1]}'
        self.site = self.root / 'venv' / 'lib' / name / 'site-packages'
        self.house = self.root / 'house'
        self.work = self.root / 'work'
        for folder in (self.house, self.work):
            folder.mkdir()
        self._eca_mmdet()
        self._stubs()
        self.line(line)

    def _eca_mmdet(self):
        """This checkout, with the metadata of the installed one."""
        startup = (REPOSITORY / 'eca_mmdet' / 'startup.pth').read_text()
        (self.site / 'zz_eca_mmdet.pth').write_text(f'{REPOSITORY}\n{startup}')
        os.symlink(Path(packaging.__file__).parent, self.site / 'packaging')
        info = write_distribution(self.site, 'eca-mmdet', '0.1.0', {})
        shutil.rmtree(self.site / 'eca_mmdet', ignore_errors=True)
        text = importlib.metadata.distribution('eca-mmdet').read_text('METADATA')
        (info / 'METADATA').write_text(text)
        link = {'url': REPOSITORY.as_uri(), 'dir_info': {'editable': True}}
        (info / 'direct_url.json').write_text(json.dumps(link))

    def _stubs(self):
        ops = NMS.format(result='_Kept()')
        version = "__version__ = '0.21.0'\n"
        vision = {'torchvision/__init__.py': version, 'torchvision/ops.py': ops}
        pip = {'pip/__init__.py': '', 'pip/__main__.py': PIP}
        coco = {'pycocotools/__init__.py': '', 'pycocotools/mask.py': ''}
        cv2 = {'cv2/__init__.py': "__version__ = '4.12.0'\n"}
        self.put('torch', '2.6.0', {'torch/__init__.py': TORCH})
        self.put('torchvision', '0.21.0', vision, ('torch==2.6.0',))
        self.put('numpy', '2.2.6')
        self.put('pip', '24.0', pip)
        self.put('pycocotools', '2.0.11', coco)
        self.put('opencv-python', '4.12.0.88', cv2, ('numpy<2.3.0,>=2',))
        for name in ('hotcoco', 'jinja2', 'markupsafe', 'matplotlib', 'shapely'):
            self.put(name, '9.0')
        for name in ('huggingface_hub', 'msgspec', 'rich', 'safetensors', 'tabulate'):
            self.put(name, '9.0')

    def line(self, line):
        """Install one of the two lines of mmdet."""
        if line == 'onedl':
            self.put('onedl-mmdetection', '3.5.1', plain('mmdet', '3.5.1'))
            self.mmcv('onedl-mmcv', '2.3.6')
            self.put('onedl-mmengine', '0.10.12', plain('mmengine', '0.10.12'))
            return
        mmdet = {'mmdet/__init__.py': MMDET_3_3}
        self.put('mmdet', '3.3.0', mmdet, MMDET_3_3_REQUIRES)
        self.mmcv('mmcv-lite', '2.1.0')
        self.put('mmengine', '0.10.7', plain('mmengine', '0.10.7'))
        self.put('setuptools', '75.0', {'pkg_resources/__init__.py': ''})

    def put(self, name, version, files=None, requires=()):
        """Install a stub."""
        return write_distribution(self.site, name, version, files, requires)

    def mmcv(self, name, version, where=None):
        """Install an mmcv without compiled operators."""
        files = plain('mmcv', version) | {'mmcv/ops.py': MMCV_OPS}
        return write_distribution(where or self.site, name, version, files)

    def wheel(self, wanted):
        """Return the folder whose content the stub of pip installs for a name."""
        return self.house / wanted

    def remove(self, name, *paths):
        """Remove a package, as pip does."""
        for info in self.site.glob(f'{name.replace("-", "_")}-*.dist-info'):
            shutil.rmtree(info)
        for path in paths:
            shutil.rmtree(self.site / path)

    def doctor(self, *words, **environment):
        """Run the command: exit code, stdout and stderr."""
        kept = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH',)}
        done = subprocess.run(
            [self.python, '-m', 'eca_mmdet.cli', 'doctor', *words],
            capture_output=True,
            text=True,
            cwd=self.work,
            env={**kept, 'STUB_HOUSE': str(self.house), **environment},
        )
        return done.returncode, done.stdout, done.stderr

    def report(self, *words, **environment):
        """Run with ``--json`` and without the self test: exit code and object."""
        words = ('--json', '--no-self-test', *words)
        code, out, err = self.doctor(*words, **environment)
        assert 'Traceback' not in err, err
        return code, json.loads(out)

    def pip_calls(self):
        """Return what the stub of pip was asked to do."""
        file = self.house / 'calls.jsonl'
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]


def plain(module, version):
    """Return a package that only has a version."""
    return {f'{module}/__init__.py': f'__version__ = {version!r}\n'}
