"""``eca-mmdet weights inspect|convert`` as a user types it."""

import hashlib
import json
import os
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from eca_mmdet.checkpoints.download import SOURCES
from eca_mmdet.checkpoints.io import read_weights
from tests.conftest import PYTHON
from tests.faults.pickles import Call, Opinion
from tests.references.networks import AuthorsResNet, randomise, save_as_the_authors

pytestmark = pytest.mark.openmmlab


@pytest.fixture
def authors_file(tmp_path):
    model = randomise(AuthorsResNet(18, (3, 5, 7, 7)))
    return save_as_the_authors(model, tmp_path / 'eca18.pth.tar')


def test_inspect_prints_what_the_file_is(command, authors_file):
    code, out, err = command('weights', 'inspect', authors_file)
    assert (code, err) == (0, '')
    for part in (
        'ECA-ResNet-18 ImageNet classifier, in the names of the ECA-Net authors',
        '18 = 2, 2, 2, 2 basic blocks',
        '7x7, 8',
        '3, 5, 7, 7 (uniform in each stage)',
        "beside        epoch 100, arch 'se_resnet50', best_prec1 70.9",
        hashlib.sha256(authors_file.read_bytes()).hexdigest(),
        "type='ECAResNet'",
        'kernel_sizes=(3, 5, 7, 7)',
    ):
        assert part in out, part


def test_inspect_an_unknown_file(command, tmp_path):
    torch.save({'a.weight': torch.zeros(2, 3)}, tmp_path / 'x.pth')
    code, out, err = command('weights', 'inspect', tmp_path / 'x.pth')
    assert (code, err) == (1, '')
    assert 'unknown' in out and 'a.weight (2, 3)' in out and 'expected names' in out


def test_inspect_loads_no_mmdet(authors_file):
    script = (
        'import sys; from eca_mmdet.cli import main; '
        f'code = main(["weights", "inspect", {str(authors_file)!r}]); '
        'print([m for m in sys.modules if m.split(".")[0] in ("mmdet", "mmcv")])'
    )
    done = subprocess.run([PYTHON, '-c', script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]' and done.stderr == ''


@pytest.mark.parametrize('ending', ['safetensors', 'pth'])
def test_convert_and_inspect_again(command, authors_file, ending):
    target = authors_file.with_name(f'new.{ending}')
    code, out, err = command('weights', 'convert', authors_file, target)
    assert (code, err) == (0, '')
    assert 'ECA-ResNet-18, authors -> mmdet' in out
    assert 'dropped module.fc.weight (classifier' not in out
    assert 'dropped fc.weight (classifier' in out
    assert 'not kept, beside the tensors: epoch, arch, best_prec1, optimizer' in out
    metadata = read_weights(target).metadata
    assert metadata['kernel_sizes'] == '3,5,7,7'
    assert metadata['source'] == str(authors_file)
    assert metadata['source_sha256'] == (
        hashlib.sha256(authors_file.read_bytes()).hexdigest()
    )
    code, out, _ = command('weights', 'inspect', target)
    assert code == 0 and 'kernel_sizes=3,5,7,7' in out
    assert 'ECA-ResNet-18 backbone, in the names of mmdet' in out


def test_convert_as_json(command, authors_file, tmp_path):
    target = tmp_path / 'x.pth'
    code, out, _ = command('weights', 'convert', authors_file, target, '--json')
    report = json.loads(out)
    assert code == 0 and report['mapped']['conv1.weight'] == 'conv1.weight'
    assert set(report['dropped']) == {'fc.weight', 'fc.bias'}


def test_convert_overwrites_only_if_told(command, authors_file, tmp_path):
    target = tmp_path / 'x.pth'
    target.write_text('mine')
    code, _, err = command('weights', 'convert', authors_file, target)
    assert code == 2 and 'exists already; --force' in err
    assert target.read_text() == 'mine'
    code, _, _ = command('weights', 'convert', authors_file, target, '--force')
    assert code == 0 and 'conv1.weight' in read_weights(target).state
    code, _, err = command('weights', 'convert', target, target, '--force')
    assert code == 2 and 'is the source itself' in err


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('nothing.pth', 'does not exist'),
        ('.', 'is a folder'),
        ('empty.pth', 'is empty'),
        ('other.pth', 'neither a ResNet nor a MobileNetV2'),
    ],
)
def test_convert_bad_sources(command, tmp_path, monkeypatch, name, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty.pth').touch()
    torch.save({'a': torch.zeros(1)}, 'other.pth')
    code, out, err = command('weights', 'convert', name, 'new.pth')
    assert (code, out) == (2, '') and part in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(os.listdir()) == ['empty.pth', 'other.pth']


def test_trust_converts_a_refused_file_once(command, tmp_path):
    file, new = tmp_path / 'old.pth', tmp_path / 'new.safetensors'
    state = AuthorsResNet(18, (3, 5, 7, 7)).state_dict()
    torch.save({'state_dict': state, 'opinion': Opinion()}, file)
    name = f'{Opinion.__module__}.Opinion'
    code, _, err = command('weights', 'inspect', file)
    assert code == 2 and f'--trust {name} [' in err
    code, _, err = command('weights', 'convert', file, new, '--trust', name)
    assert (code, err) == (0, '')
    assert command('weights', 'inspect', new)[0] == 0


def test_a_planted_command_does_not_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {'state_dict': {}, 'x': Call(os.system, 'touch exploded')}
    torch.save(content, 'bomb.pth')
    for words in (
        ('inspect', 'bomb.pth'),
        ('convert', 'bomb.pth', 'new.pth'),
        ('convert', 'bomb.pth', 'new.pth', '--trust', 'posix.system'),
    ):
        code, _, err = command('weights', *words)
        assert code == 2 and 'posix.system' in err
    assert os.listdir() == ['bomb.pth']


def test_an_address_that_cannot_be_reached(command, caplog):
    address = 'http://127.0.0.1:9/x.pth'  # nothing listens there
    code, _, err = command('weights', 'inspect', address)
    *_, line = err.strip().splitlines()
    assert code == 2 and f'downloading {address} to ' in caplog.text + err
    assert f'{address} cannot be downloaded ([Errno 111] Connection refused)' in line


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_files_cannot_write_to_the_terminal(command, tmp_path, ending):
    state = AuthorsResNet(18, (3, 5, 7, 7)).state_dict()
    evil = 'a\x1b[2J\r\n  sha256  forged'
    file = tmp_path / f'x.{ending}'
    if ending == 'pth':
        torch.save({'state_dict': state, evil: 1, 'arch': evil}, file)
    else:
        save_file(state, file, metadata={evil: evil})
    code, out, err = command('weights', 'inspect', file)
    assert code == 0 and err == ''
    assert '\x1b' not in out and '\r' not in out and '\n  sha256  forged' not in out
    torch.save({evil: 1}, tmp_path / 'bad.pth')
    code, out, err = command('weights', 'inspect', tmp_path / 'bad.pth')
    assert code == 2 and len(err.splitlines()) == 1 and '\x1b' not in err
    code, out, err = command('weights', 'inspect', tmp_path / 'no\x1b[2J\nfile.pth')
    assert code == 2 and len(err.splitlines()) == 1 and '\x1b' not in err


def test_addresses_keep_no_secrets_in_the_file(command, tmp_path, monkeypatch):
    model = AuthorsResNet(18, (3, 5, 7, 7))
    file = save_as_the_authors(model, tmp_path / 'x.pth')
    monkeypatch.setattr('eca_mmdet.checkpoints.download.fetch', lambda address: file)
    address = 'https://me:secret@example.org/a/x.pth?token=secret'
    assert command('weights', 'convert', address, tmp_path / 'new.pth')[0] == 0
    source = read_weights(tmp_path / 'new.pth').metadata['source']
    assert source == 'https://example.org/a/x.pth'
    code, out, _ = command('weights', 'inspect', address)
    assert code == 0 and f'checkpoint={address!r}' in out  # not the cache's path


def test_weights_need_no_mmengine(tmp_path):
    """Inspecting and converting work where no line of mmdet is installed."""
    program = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmcv', 'mmdet'):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from eca_mmdet.checkpoints import convert, inspect
from eca_mmdet.cli import main
import torch
torch.save({'conv1.weight': torch.zeros(2, 3, 7, 7)}, sys.argv[1])
sys.exit(main(['weights', 'inspect', sys.argv[1]]))
"""
    done = subprocess.run(
        [PYTHON, '-c', program, str(tmp_path / 'file.pth')],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    assert 'neither a ResNet nor a MobileNetV2' in done.stdout
    assert 'Traceback' not in done.stderr


def test_list_and_download(command, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'eca_resnet50_k3557.pth.tar'
    code, out, err = command('weights', 'list')
    assert (code, err) == (0, '')
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert {*SOURCES, 'hf://timm/ecaresnet50d.miil_in1k'} <= rows.keys()
    assert 'mask-rcnn_eca-r50, ' in rows[name] and 'there' not in out
    torch.save({'a': torch.ones(2)}, tmp_path / 'x')
    server.files['/x'] = (tmp_path / 'x').read_bytes()
    monkeypatch.setitem(SOURCES, name, f'{server.address}/x?id=1')
    other = f'{server.address}/x'
    words = ('mask-rcnn_eca-r50', 'retinanet_eca-r50_fpn_4xb2-1x_coco', name)
    code, out, err = command('weights', 'download', *words)
    assert (code, out) == (0, f'checkpoints/{name}\n' * 3)
    assert err.count('downloading') == 1 and err.count('is there already') == 2
    code, out, err = command('weights', 'download', other, '--dir', 'new/folder')
    assert (code, out) == (0, 'new/folder/x\n')
    assert server.gets() == ['/x', '/x']
    code, out, err = command('weights', 'list')
    assert 'there' in next(line for line in out.splitlines() if name in line)
    code, out, err = command('weights', 'download', 'eca_resnet51')
    assert (code, out) == (2, '') and 'not in eca-mmdet weights list' in err
