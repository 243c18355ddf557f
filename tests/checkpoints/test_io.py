"""Files of weights are read without running them, and written whole or not at all."""

import bz2
import io
import json
import lzma
import os
import pickle
import resource
import struct
import tarfile
import weakref
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eca_mmdet.checkpoints.io import read_weights, write_weights
from eca_mmdet.utils.errors import MissingWeightsError, UserError, WeightsError
from eca_mmdet.utils.io import sha256_of
from tests.faults.pickles import Call, Opinion

pytestmark = pytest.mark.openmmlab

STATE = {'a.weight': torch.arange(6.0).reshape(2, 3), 'b': torch.tensor(3)}


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype
        assert torch.equal(left[key], right[key])


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    ('content', 'wrapper', 'prefix'),
    [
        (STATE, '', ''),
        ({'state_dict': STATE, 'epoch': 3}, 'state_dict', ''),
        ({'model': STATE, 'args': None}, 'model', ''),
        ({'state_dict': {f'module.{k}': v for k, v in STATE.items()}}, 'state_dict', 1),
        ({f'_orig_mod.{k}': v for k, v in STATE.items()}, '', '_orig_mod.'),
    ],
    ids=['bare', 'wrapped', 'model', 'DataParallel', 'compiled'],
)
def test_pytorch_files(tmp_path, content, wrapper, prefix, zipped):
    file = tmp_path / 'weights.bin'  # the ending does not matter
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    read = read_weights(file)
    same(read.state, STATE)
    assert (read.container, read.wrapper) == ('PyTorch', wrapper)
    assert read.prefix == ('module.' if prefix == 1 else prefix)
    assert read.extras == {k: v for k, v in content.items() if k == 'epoch'} | (
        {'args': None} if wrapper == 'model' else {}
    )


def test_the_content_decides_and_not_the_name(tmp_path):
    torch.save(STATE, tmp_path / 'x.safetensors')
    save_file(STATE, tmp_path / 'x.pth', metadata={'source': 'here'})
    for name, container, metadata in (
        ('x.safetensors', 'PyTorch', {}),
        ('x.pth', 'safetensors', {'source': 'here'}),
    ):
        read = read_weights(tmp_path / name)
        same(read.state, STATE)
        assert (read.container, read.metadata) == (container, metadata)


@pytest.mark.parametrize('way', ['torch', 'legacy torch', 'pickle'])
@pytest.mark.parametrize(
    ('function', 'name'),
    [
        (os.system, 'posix.system'),
        (open, 'io.open'),
        (eval, 'builtins.eval'),
        (os.execl, 'os.execl'),
    ],
    ids=['system', 'open', 'eval', 'exec'],
)
def test_a_planted_command_does_not_run(tmp_path, monkeypatch, function, name, way):
    monkeypatch.chdir(tmp_path)
    command = '__import__("os").mkdir("exploded")' if function is eval else 'exploded'
    if function is os.system:
        command = 'mkdir exploded'
    arguments = ('exploded', 'w') if function is open else (command,)
    content = {'state_dict': STATE, 'x': Call(function, *arguments)}
    if way == 'pickle':
        (tmp_path / 'bomb.pth').write_bytes(pickle.dumps(content))
    else:
        torch.save(content, 'bomb.pth', _use_new_zipfile_serialization=way == 'torch')
    part = 'is a plain Python pickle' if way == 'pickle' else f'would call {name}'
    with pytest.raises(WeightsError, match=part) as caught:
        read_weights('bomb.pth')
    assert '--trust' not in str(caught.value)
    assert os.listdir() == ['bomb.pth']
    part = part if way == 'pickle' else f'--trust {name}: functions of'
    with pytest.raises(UserError, match=part):
        read_weights('bomb.pth', trust=[name])
    assert os.listdir() == ['bomb.pth']


def test_another_class_needs_trust(tmp_path):
    file = tmp_path / 'opinion.pth'
    torch.save({'state_dict': STATE, 'opinion': Opinion()}, file)
    name = f'{Opinion.__module__}.Opinion'
    with pytest.raises(WeightsError, match=f'convert .* --trust {name}$'):
        read_weights(file)
    before = torch.serialization.get_safe_globals()
    read = read_weights(file, trust=[name])
    same(read.state, STATE)
    assert read.extras['opinion'].value == 3
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(WeightsError, match='--trust'):
        read_weights(file)


def test_a_harmless_builtin_can_be_trusted(tmp_path):
    torch.save({'state_dict': STATE, 'x': slice(1, 4)}, tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=r'--trust builtins\.slice$'):
        read_weights(tmp_path / 'x.pth')
    read = read_weights(tmp_path / 'x.pth', trust=['builtins.slice'])
    assert read.extras['x'] == slice(1, 4)


@pytest.mark.parametrize(
    'name', ['nowhere.Thing', 'numpy.Thing', 'Thing', '', 'torch.load', 'numpy.sqrt']
)
def test_trust_in_what_does_not_exist(tmp_path, name):
    torch.save(STATE, tmp_path / 'x.pth')
    with pytest.raises(UserError, match='no class of that name here'):
        read_weights(tmp_path / 'x.pth', trust=[name])


def test_numpy_beside_the_tensors_is_read(tmp_path):
    """It pickles the bytes of megabytes as text of that length, encoded again."""
    curve = np.random.default_rng(0).random(500_000)
    content = {'state_dict': STATE, 'best': np.float64(76.5), 'curve': curve}
    torch.save(content, tmp_path / 'x.pth')
    extras = read_weights(tmp_path / 'x.pth').extras
    assert extras['best'] == 76.5 and np.array_equal(extras['curve'], curve)


def test_a_file_in_use_is_read_once(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(STATE, path)
    file = read_weights(path)
    assert read_weights(path) is file
    torch.save({**STATE, 'c': torch.zeros(1)}, path)
    assert 'c' in read_weights(path).state and 'c' not in file.state
    held = weakref.ref(file)
    del file
    assert held() is None  # a training does not keep what it has loaded


def test_what_training_wrote_beside_the_tensors(tmp_path):
    meta = {'cfg': 'a = 1', 'dataset_meta': {'classes': ['cat', 'dog']}}
    torch.save({'state_dict': STATE, 'meta': meta}, tmp_path / 'x.pth')
    file = read_weights(tmp_path / 'x.pth')
    assert (file.config, file.classes, file.meta) == ('a = 1', ('cat', 'dog'), meta)
    assert file.sha256 == sha256_of(tmp_path / 'x.pth')
    torch.save({'state_dict': STATE, 'meta': 7}, tmp_path / 'y.pth')
    file = read_weights(tmp_path / 'y.pth')
    assert (file.config, file.classes, file.meta) == ('', None, {})


def test_history_in_a_checkpoint_cannot_reach_other_attributes(tmp_path, mmdet_ready):
    """builtins.getattr is allowed for HistoryBuffer's statistics and nothing else."""
    content = {'state_dict': STATE, 'x': Call(getattr, np.ndarray, 'tofile')}
    torch.save(content, tmp_path / 'reach.pth')
    with pytest.raises(WeightsError, match='refused: .*getattr'):
        read_weights(tmp_path / 'reach.pth')


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        info = tarfile.TarInfo('../../escape')
        info.size = 3
        archive.addfile(info, io.BytesIO(b'abc'))
    return buffer.getvalue()


def zip_bytes(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name in names:
            archive.writestr(name, 'abc')
    return buffer.getvalue()


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        (b'', 'is empty'),
        (b'\n<!DOCTYPE html><title>Quota exceeded</title>', 'is a web page'),
        (b'\xef\xbb\xbf<html>', 'is a web page'),
        ('\ufeff<!doctype html>'.encode('utf-16-le'), 'is a web page'),
        (b'<script>{"a":1}</script>', 'is a web page'),
        (b'{"error": "Rate limit exceeded"}', 'is JSON'),
        (tar_bytes(), 'is a tar archive'),
        (bz2.compress(b'abc'), 'is a compressed archive'),
        (lzma.compress(b'abc'), 'is a compressed archive'),
        (zip_bytes('best.pth', 'README'), 'is a zip archive of best.pth, README'),
        (zip_bytes(), 'is a compressed archive'),
        (zip_bytes('m/constants.pkl', 'm/data.pkl', 'm/code/a.py'), 'is a TorchScript'),
        (zip_bytes('m/archive_format', 'm/models/model.json'), 'that torch.export'),
        (b'\x08\x08\x12\x07pytorch\x1a\x052.4.0', 'is an ONNX model'),
        (b'\x89HDF\r\n\x1a\n', 'is a file of another library'),
        (b'\x89PNG\r\n\x1a\n', 'is an image'),
        (bytes(600), 'is all zeros'),
        (pickle.dumps({'a': 1}), 'is a plain Python pickle'),
        (b'\x1f\x8b\x08' + bytes(50), 'is gzip-compressed'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'is a Git LFS pointer'),
        (b'hello', 'is not a checkpoint: neither'),
        (b'PK\x03\x04hello', 'damaged, cut off or something else'),
        (saved(STATE)[:200], 'damaged, cut off or something else'),
        (saved(STATE)[:-100], 'damaged, cut off or something else'),
        (b'\xff\x00\x00\x00\x00\x00\x00\x00{"a"', 'damaged or cut off'),
        (saved([1, 2]), 'got list'),
        (saved({}), 'a dict with nothing'),
        (saved({'epoch': 3, 'arch': 'x'}), 'a dict with epoch, arch'),
        (saved({'state_dict': {'a': 1}}), 'a dict with state_dict'),
        (saved({3: torch.zeros(1)}), 'a dict with 3'),
        (saved(torch.zeros(2)), 'got Tensor'),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else '',
)
@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_files_that_are_no_weights(tmp_path, content, part, ending):
    file = tmp_path / f'bad.{ending}'
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=part) as caught:
        read_weights(file)
    message = str(caught.value)
    assert str(file) in message and '\n' not in message
    assert os.listdir(tmp_path) == [file.name]


def of_header(header, values=b'', length=None):
    """A safetensors file; the header is JSON or its bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(raw) if length is None else length) + raw + values


def entry(shape, begin, end):
    return {'dtype': 'F32', 'shape': shape, 'data_offsets': [begin, end]}


ONE = json.dumps(entry([1], 0, 4)).encode()


@pytest.mark.parametrize(
    ('content', 'code'),
    [
        (of_header({f't{i}': entry([0], 0, 0) for i in range(20_001)}), 'unsafe'),
        (of_header({'a': entry([0], 0, 0), 'b': entry([3, 0], 0, 0)}), 'unsafe'),
        (of_header(b'{"a":%s,"a":%s}' % (ONE, ONE), bytes(4)), 'unsafe'),
        (of_header(b'{"__metadata__":{"a":"%s"}}' % (b'x' * (9 << 20))), 'unsafe'),
        (of_header({'a': entry([1 << 40, 1 << 40], 0, 0)}), 'unreadable'),
        (of_header({'a': entry([1 << 62, 4, 0], 0, 0)}), 'unreadable'),
        (of_header({'a': entry([4], 0, 8)}, bytes(8)), 'unreadable'),
        (of_header({'a': entry([4], 16, 0)}, bytes(16)), 'unreadable'),
        (of_header({'a': entry([4], 0, 16)}, bytes(8)), 'unreadable'),  # cut off
        (
            of_header({'a': entry([1], 0, 4), 'b': entry([1], 0, 4)}, bytes(4)),
            'unreadable',
        ),
        (of_header({'a': entry([1], 0, 4)}, bytes(8)), 'unreadable'),
        (of_header({'a': entry([-1], 0, 4)}, bytes(4)), 'unreadable'),
        (of_header({'a': 3}), 'unreadable'),
        (of_header({'a': {'data_offsets': [[], {}]}}), 'unreadable'),
        (of_header(b'{"a":' * 100_000), 'unreadable'),
        (of_header(b'{"a":%s}' % (b'9' * 5_000)), 'unreadable'),
        (of_header(b'{}', length=1 << 40), 'unreadable'),
        (of_header(b'{}', length=(1 << 64) - 1), 'unreadable'),
        (of_header(b'{"\xff":1}'), 'unreadable'),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_safetensors_made_to_hurt(tmp_path, content, code):
    """Refused before any tensor is read, however large it says that it is."""
    file = tmp_path / 'x.safetensors'
    file.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        read_weights(file)
    assert caught.value.code.endswith(code)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 200_000


def test_missing_folder_and_pipe(tmp_path):
    with pytest.raises(MissingWeightsError, match='does not exist'):
        read_weights(tmp_path / 'nothing.pth')
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / 'nothing.pth')
    with pytest.raises(WeightsError, match='is a folder'):
        read_weights(tmp_path)
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(WeightsError, match='not a regular file'):
        read_weights(tmp_path / 'pipe')


def test_no_permission(tmp_path):
    file = tmp_path / 'secret.pth'
    torch.save(STATE, file)
    file.chmod(0)
    root = os.geteuid() == 0  # who may read everything: become nobody
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(WeightsError, match='cannot be read: Permission denied'):
            read_weights(file)
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_written_files_are_read_back(tmp_path, ending):
    state = {
        **STATE,
        'half': torch.randn(3).half(),
        'brain': torch.randn(3).bfloat16(),
        'strided': torch.arange(6).reshape(2, 3).T,
    }
    state['shared'] = state['strided']
    file = tmp_path / f'x{ending}'
    write_weights(file, state, {'source': 'a', 'kernel_sizes': '3,5,5,7'})
    read = read_weights(file)
    same(read.state, state)
    found = {k: v for k, v in read.metadata.items() if k != 'format'}
    assert found == {'source': 'a', 'kernel_sizes': '3,5,5,7'}
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert os.listdir(tmp_path) == [file.name]


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_overwritten(tmp_path):
    file, link = tmp_path / 'x.pth', tmp_path / 'link.pth'
    file.write_text('mine')
    link.symlink_to(tmp_path / 'gone.pth')
    for path in (file, link):
        with pytest.raises(WeightsError, match='exists already; --force'):
            write_weights(path, STATE, {})
    assert file.read_text() == 'mine' and link.is_symlink()
    write_weights(file, STATE, {}, force=True)
    same(read_weights(file).state, STATE)


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_a_full_disk(tmp_path, ending):
    """Files may not grow beyond 20 kB: what torch and safetensors then raise."""
    file = tmp_path / f'x{ending}'
    file.write_text('mine')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match='cannot be written'):
            write_weights(file, {'a': torch.zeros(50_000)}, {}, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == 'mine' and os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize(
    ('state', 'part'),
    [
        ({'a': torch.zeros(2, device='meta')}, 'a is not a plain tensor'),
        ({'a': torch.zeros(2, 2).to_sparse()}, 'a is not a plain tensor'),
        ({'a': torch.nested.nested_tensor([torch.zeros(1)])}, 'a is not a plain'),
        ({'a\x1b[2J': torch.zeros(1)}, r'control characters: .a\\x1b\[2J'),
        ({'a\nb': torch.zeros(1)}, 'control characters'),
    ],
    ids=['meta', 'sparse', 'nested', 'escape', 'newline'],
)
def test_tensors_that_are_no_weights(tmp_path, state, part):
    torch.save(state, tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=part):
        read_weights(tmp_path / 'x.pth')


def test_metadata_is_text(tmp_path):
    ours = {'a': 'b', 'c': torch.zeros(1), (1, 2): 'd', 'e': {}}
    torch.save({'state_dict': STATE, 'meta': {'eca_mmdet': ours}}, tmp_path / 'x.pth')
    assert read_weights(tmp_path / 'x.pth').metadata == {'a': 'b'}


def test_safetensors_whose_length_looks_like_a_zip(tmp_path):
    """The first bytes of a header of 19280 bytes are 'PK'."""
    save_file(STATE, tmp_path / 'x', metadata={'a': ''})
    length = int.from_bytes((tmp_path / 'x').read_bytes()[:8], 'little')
    save_file(STATE, tmp_path / 'x', metadata={'a': ' ' * (19280 - length)})
    assert (tmp_path / 'x').read_bytes()[:2] == b'PK'
    same(read_weights(tmp_path / 'x').state, STATE)


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        *[(name, r'\.safetensors or \.pth') for name in ('x.pt', 'x', 'x.pth.tar')],
        ('no/x.pth', r'cannot be written \(No such file'),
    ],
)
def test_targets_that_cannot_be_written(tmp_path, name, part):
    with pytest.raises(WeightsError, match=part):
        write_weights(tmp_path / name, STATE, {})
