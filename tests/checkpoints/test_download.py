"""Addresses: downloaded once, by one process, and only weights are kept."""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from eca_mmdet.checkpoints.download import fetch
from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.utils.errors import (
    MissingPackageError,
    MissingWeightsError,
    WeightsError,
)
from tests.conftest import PYTHON, REPOSITORY

STATE = {'a': torch.arange(4.0)}


def saved(tmp_path, state):
    torch.save(state, tmp_path / 'saved')
    return (tmp_path / 'saved').read_bytes()


def left_over(cache):
    return [path for path in cache.rglob('*') if path.is_file()]


def test_a_file_is_downloaded_once(server, cache, tmp_path):
    server.files['/a/x.pth'] = saved(tmp_path, STATE)
    for _ in range(2):
        file = fetch(f'{server.address}/a/x.pth')
        assert torch.equal(read_weights(file).state['a'], STATE['a'])
    assert server.gets() == ['/a/x.pth']
    assert left_over(cache) == [file] and file.name == 'x.pth'


def test_equal_names_at_two_addresses_are_two_files(server, cache, tmp_path):
    for i, folder in enumerate('ab'):
        server.files[f'/{folder}/x.pth'] = saved(tmp_path, {'a': torch.tensor([i])})
    values = [
        read_weights(fetch(f'{server.address}/{folder}/x.pth')).state['a'].item()
        for folder in 'ab'
    ]
    assert values == [0, 1]


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        (b'<html>quota exceeded</html>', 'what came is a web page'),
        (b'', 'what came is empty'),
        (b'cut', 'what came is not a checkpoint'),
        (None, 'HTTP Error 404'),
    ],
)
def test_what_is_not_weights_is_not_kept(server, cache, content, part):
    if content is not None:
        server.files['/x.pth'] = content
    with pytest.raises(WeightsError, match=part) as caught:
        fetch(f'{server.address}/x.pth')
    assert f'{server.address}/x.pth' in str(caught.value)
    assert left_over(cache) == []


def test_a_download_that_breaks_off_is_not_kept(server, cache, tmp_path):
    server.files['/x.pth'] = saved(tmp_path, {'a': torch.zeros(100_000)})[:5000]
    with pytest.raises(WeightsError, match='what came cannot be read'):
        fetch(f'{server.address}/x.pth')
    assert left_over(cache) == []


def test_a_stated_checksum_must_fit(server, cache, tmp_path):
    content = saved(tmp_path, STATE)
    digest = hashlib.sha256(content).hexdigest()
    server.files['/x-0000000f.pth'] = content
    server.files[f'/x-{digest[:8]}.pth'] = content
    with pytest.raises(WeightsError, match=f'its sha256 is {digest}, not 0000000f'):
        fetch(f'{server.address}/x-0000000f.pth')
    assert left_over(cache) == []
    assert fetch(f'{server.address}/x-{digest[:8]}.pth').exists()


def test_paths_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'x.pth').touch()
    assert fetch('~/x.pth') == tmp_path / 'x.pth'
    with pytest.raises(MissingWeightsError, match='not found'):
        fetch('nothing.pth')


@pytest.mark.parametrize('address', ['ftp://x/y.pth', 'file:///etc/passwd', 's3://x/y'])
def test_other_schemes_are_refused(address):
    with pytest.raises(WeightsError, match='http://, https://, hf://, torchvision://'):
        fetch(address)


@pytest.mark.openmmlab
def test_torchvision_names(mmdet_ready, monkeypatch):
    asked = []
    save = 'eca_mmdet.checkpoints.download._save'
    monkeypatch.setattr(save, lambda *words: asked.append(words[0]))
    fetch('torchvision://resnet50')
    assert re.fullmatch(r'https://.*/resnet50-[0-9a-f]{8}\.pth', asked[0])
    with pytest.raises(MissingWeightsError, match="weights called 'resnet51'"):
        fetch('torchvision://resnet51')


@pytest.mark.parametrize('name', ['timm', 'timm/a/b@c@d', '', 'timm/ a', '../x/y'])
def test_bad_hub_addresses(name):
    with pytest.raises(WeightsError):
        fetch(f'hf://{name}')


def run(script, **environment):
    return subprocess.run(
        [PYTHON, '-c', textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )


HUB = """
    from eca_mmdet.checkpoints.download import fetch
    from eca_mmdet.utils.errors import UserError
    try:
        print(fetch('hf://timm/tiny.test'))
    except UserError as error:
        print(error)
"""


@pytest.fixture
def hub(server, tmp_path):
    pytest.importorskip('huggingface_hub')
    return dict(
        HF_ENDPOINT=server.address,
        HF_HOME=str(tmp_path / 'hub'),
        HF_HUB_OFFLINE='0',
        HF_HUB_DISABLE_TELEMETRY='1',
        HF_HUB_DISABLE_XET='1',
        NO_PROXY='127.0.0.1',
    )


def test_the_hub_is_asked_once_and_then_works_offline(server, hub, tmp_path):
    from safetensors.torch import save

    server.files['/timm/tiny.test/resolve/main/model.safetensors'] = save(STATE)
    first = run(HUB, **hub)
    path = first.stdout.strip().splitlines()[-1]
    assert path.endswith('model.safetensors'), first.stdout + first.stderr
    assert torch.equal(read_weights(path).state['a'], STATE['a'])
    server.files.clear()
    server.asked.clear()
    again = run(HUB, **{**hub, 'HF_HUB_OFFLINE': '1'})
    assert again.stdout.strip() == path and server.asked == []


def test_hub_repositories_with_pytorch_files_alone(server, hub, tmp_path):
    server.files['/timm/tiny.test/resolve/main/pytorch_model.bin'] = saved(
        tmp_path, STATE
    )
    path = run(HUB, **hub).stdout.strip().splitlines()[-1]
    assert torch.equal(read_weights(path).state['a'], STATE['a'])


@pytest.mark.slow
@pytest.mark.parametrize('offline', ['0', '1'])
def test_an_unreachable_hub_gives_one_line(hub, offline):
    environment = {**hub, 'HF_ENDPOINT': 'http://127.0.0.1:9'}
    hasty = (
        '\n    import time\n    time.sleep = lambda seconds: None  # before each retry'
    )
    done = run(hasty + HUB, **{**environment, 'HF_HUB_OFFLINE': offline})
    (line,) = done.stdout.strip().splitlines()
    reason = 'offline mode is enabled' if offline == '1' else 'Connection refused'
    assert 'hf://timm/tiny.test is not in the cache and cannot be downloaded' in line
    assert reason in line
    assert done.stderr == 'downloading hf://timm/tiny.test\n'


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(MissingPackageError, match='pip install huggingface_hub'):
        fetch('hf://timm/ecaresnet50d.miil_in1k')


WORKER = """
    import json, os, sys
    import torch.distributed as dist
    import eca_mmdet
    from eca_mmdet.utils.errors import UserError
    from eca_mmdet.checkpoints.download import fetch
    dist.init_process_group('gloo')
    found = []
    for address in json.loads(os.environ['ADDRESSES']):
        try:
            found.append(str(fetch(address)))
        except UserError as error:
            found.append(f'{type(error).__name__}: {error}')
    with open(f"{os.environ['OUT']}/{dist.get_rank()}", 'w') as file:
        json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_only_rank_0_downloads_and_all_get_its_answer(server, cache, tmp_path):
    server.files['/x.pth'] = saved(tmp_path, STATE)
    addresses = [f'{server.address}/x.pth', f'{server.address}/nothing.pth']
    script = tmp_path / 'worker.py'
    script.write_text(textwrap.dedent(WORKER))
    done = subprocess.run(
        [PYTHON, '-m', 'torch.distributed.run', '--nproc_per_node', '3', str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'ADDRESSES': json.dumps(addresses), 'OUT': str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert found[0] == found[1] == found[2]
    assert found[0][0].endswith('x.pth')
    assert found[0][1].startswith('MissingWeightsError: ') and '404' in found[0][1]
    assert server.gets() == ['/x.pth', '/nothing.pth']
    assert done.stderr.count('downloading') == 2


@pytest.mark.parametrize(
    'address',
    [
        'http://[::1/x.pth',
        'http://127.0.0.1:notaport/x.pth',
        'http://127.0.0.1:9/a b/é.pth',
        'http://127.0.0.1:9/' + 'x' * 400,
        'http://127.0.0.1:9/\x1b[2J',
        'http://',
    ],
)
def test_odd_addresses_give_one_line(cache, address):
    with pytest.raises(WeightsError) as caught:
        fetch(address)
    assert '\n' not in str(caught.value)


def test_a_broken_body_and_no_http_at_all(cache, monkeypatch):
    """A connection that ends early, and a server that speaks something else."""
    import socket

    for answer in (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc',
        b'SSH-2.0-OpenSSH\r\n',
        b'',
    ):
        listener = socket.create_server(('127.0.0.1', 0))

        def serve(listener=listener, answer=answer):
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        address = f'http://127.0.0.1:{listener.getsockname()[1]}/x.pth'
        with pytest.raises(WeightsError, match='cannot be downloaded|what came'):
            fetch(address)
        listener.close()
    assert left_over(cache) == []


def test_a_date_is_no_checksum(server, cache, tmp_path):
    server.files['/epoch-20231105.pth'] = saved(tmp_path, STATE)
    assert fetch(f'{server.address}/epoch-20231105.pth').exists()
