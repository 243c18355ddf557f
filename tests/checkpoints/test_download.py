"""Addresses: downloaded once, by one process, and only weights are kept."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from eca_mmdet.checkpoints.download import SOURCES, download, fetch
from eca_mmdet.checkpoints.io import read_weights
from eca_mmdet.utils.errors import (
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


FORM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>
</head><body><form id="download-form" action="{address}/download" method="get">
<input type="submit" id="uc-download-link" value="Download anyway"/>
<input type="hidden" name="id" value="ID1">
<input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="5e3&amp;0"></form></body></html>"""
QUOTA = """<html><head><title>Google Drive - Quota exceeded</title></head><body>Too many
users have viewed or downloaded this file recently.</body></html>"""
LARGE = {'a': torch.arange(200_000.0)}  # several blocks


@pytest.fixture
def public(server, tmp_path, monkeypatch):
    """Publish a file as tiny.pth of the list; return its content."""
    monkeypatch.chdir(tmp_path)
    address = f'{server.address}/download?id=ID1&export=download&confirm=t'
    monkeypatch.setitem(SOURCES, 'tiny.pth', address)
    server.files['/download'] = saved(tmp_path, LARGE)
    (tmp_path / 'saved').unlink()
    return server.files['/download']


def test_drives_page_is_confirmed_and_a_file_that_is_there_is_kept(
    server, public, tmp_path, caplog
):
    form = FORM.format(address=server.address)
    confirmed = 'id=ID1&confirm=t&uuid=5e3%260'
    server.pages['/download'] = lambda query: None if query == confirmed else form
    for _ in range(2):
        assert download('tiny.pth') == Path('checkpoints/tiny.pth')
        assert (tmp_path / 'checkpoints/tiny.pth').read_bytes() == public
    assert server.gets() == ['/download'] * 2
    assert left_over(tmp_path) == [tmp_path / 'checkpoints/tiny.pth']
    assert f'there already, sha256 {hashlib.sha256(public).hexdigest()}' in caplog.text


@pytest.mark.parametrize(
    ('page', 'told'),
    [
        (QUOTA, "web page, 'Google Drive - Quota exceeded': too many users"),
        (FORM, "web page, 'Google Drive - Virus scan warning'"),
        ('<html>Sign in', "web page, ''"),
        (None, 'HTTP Error 404'),
    ],
)
def test_pages_instead_of_the_file(server, public, tmp_path, page, told):
    if page:
        server.pages['/download'] = lambda query: page.format(address=server.address)
    else:
        server.files.clear()
    with pytest.raises(MissingWeightsError) as caught:
        download('tiny.pth')
    message = str(caught.value)
    assert told in message and '\n' not in message
    assert 'save it as checkpoints/tiny.pth. To train with another file: ' in message
    assert left_over(tmp_path) == []


@pytest.mark.parametrize('interrupted', [True, False])
@pytest.mark.parametrize('resumes', [True, False])
def test_a_cut_download_is_continued(
    server, public, tmp_path, monkeypatch, caplog, resumes, interrupted
):
    """By ctrl-C or a lost connection; behind a redirect, as GitHub's releases are."""
    server.resumes = resumes
    server.files['/cdn'] = server.files.pop('/download')
    server.redirects['/download'] = f'{server.address}/cdn?token=1'
    half = len(public) // 2
    if interrupted:
        left = iter([None, None])  # what is there already, and one block

        @contextlib.contextmanager
        def one_block(*words):
            yield lambda count: next(left, None) if count < 1 << 18 else stop()

        def stop():
            raise KeyboardInterrupt

        half = 1 << 18
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr('eca_mmdet.checkpoints.download.progress', one_block)
            download('tiny.pth')
    else:
        server.cut['/cdn'] = half
        with pytest.raises(MissingWeightsError, match=f'{half} of {len(public)} bytes'):
            download('tiny.pth')
    (part,) = left_over(tmp_path)
    assert part.read_bytes() == public[:half]
    assert f'{part.name} keeps what came' in caplog.text
    file = download('tiny.pth')
    assert file.read_bytes() == public and set(server.ranges) == {f'bytes={half}-'}
    assert left_over(tmp_path) == [tmp_path / file]


@pytest.mark.parametrize('tag', ['"other"', 'W/"weak"', ''])
def test_parts_of_two_versions_are_never_joined(server, public, tmp_path, tag):
    """Another strong ETag; a weak one and none, by which nothing can be told."""
    if not tag.startswith('"'):
        server.headers['/download'] = {'ETag': tag}
    server.cut['/download'] = len(public) // 2
    with pytest.raises(MissingWeightsError, match='the connection ended'):
        download('tiny.pth')
    new = saved(tmp_path, {'a': LARGE['a'] + 1})
    assert len(new) == len(public)
    server.files['/download'] = new
    assert download('tiny.pth').read_bytes() == new
    assert server.ranges == []


def test_a_server_that_gives_another_range_starts_again(server, public):
    server.cut['/download'] = len(public) // 2
    with pytest.raises(MissingWeightsError):
        download('tiny.pth')
    server.starts = 7
    assert download('tiny.pth').read_bytes() == public


def test_another_file_in_its_place_is_kept(server, public, tmp_path, monkeypatch):
    address = f'{server.address}/tiny-0000000f.pth'
    monkeypatch.setitem(SOURCES, 'tiny.pth', address)
    server.files['/tiny-0000000f.pth'] = public
    with pytest.raises(WeightsError, match='not 0000000f') as caught:
        download('tiny.pth')
    assert caught.value.code == 'download-failed' and left_over(tmp_path) == []
    (tmp_path / 'other').mkdir()
    for content in (public, b'<html>quota', b''):
        (tmp_path / 'other/tiny.pth').write_bytes(content)
        with pytest.raises(WeightsError, match='Move it away') as caught:
            download('tiny.pth', 'other')
        assert caught.value.code == 'output-exists'
        assert (tmp_path / 'other/tiny.pth').read_bytes() == content
    assert server.gets() == ['/tiny-0000000f.pth']


def test_two_downloads_at_once(server, public, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        files = list(threads.map(download, ['tiny.pth'] * 4))
    assert files == [Path('checkpoints/tiny.pth')] * 4
    assert left_over(tmp_path) == [tmp_path / 'checkpoints/tiny.pth']
    assert (tmp_path / 'checkpoints/tiny.pth').read_bytes() == public


def test_names_without_a_public_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, told in (
        ('se_resnet101.pth', 'no public file'),
        ('eca_resnet50', 'not in eca-.* Did you mean .*eca_resnet50_k3557.pth.tar'),
    ):
        with pytest.raises(MissingWeightsError, match=told):
            download(name)
    assert list(tmp_path.iterdir()) == []


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
def test_torchvision_names(mmdet_ready, monkeypatch, tmp_path):
    asked = []
    save = 'eca_mmdet.checkpoints.download._save'
    monkeypatch.setattr(save, lambda *words: asked.append(words[0]))
    fetch('torchvision://resnet50')
    assert re.fullmatch(r'https://.*/resnet50-[0-9a-f]{8}\.pth', asked[0])
    file = download('torchvision://resnet50', tmp_path)
    assert asked[1:] == asked[:1] and file == tmp_path / Path(asked[0]).name
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
        NO_PROXY='127.0.0.1,localhost',
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


def test_a_large_file_of_the_hub_is_checked(server, hub, tmp_path):
    """It comes from another address, and its name in the cache is its SHA-256."""
    from safetensors.torch import save

    content = save(STATE)
    path, name = '/timm/tiny.test/resolve/main/model.safetensors', 'tiny.test'
    cdn = server.address.replace('127.0.0.1', 'localhost')
    server.redirects[path] = f'{cdn}/cdn'
    server.files['/cdn'] = content
    linked = {'X-Linked-Size': str(len(content))}
    for digest in ('f' * 64, hashlib.sha256(content).hexdigest()):
        server.headers[path] = {**linked, 'X-Linked-Etag': f'"{digest}"'}
        words = ['weights', 'download', 'hf://timm/tiny.test', '--dir', str(tmp_path)]
        script = f'from eca_mmdet.cli import main; raise SystemExit(main({words}))'
        done = run(script, **hub)
        if digest[:2] == 'ff':
            assert done.returncode == 2 and 'another sha256' in done.stderr
            assert not (tmp_path / name).exists()
    assert (done.returncode, done.stdout) == (0, f'{tmp_path / name}\n'), done.stderr
    assert (tmp_path / name).read_bytes() == content
    assert 'is there already' in run(script, **hub).stderr
    torch.save(STATE, tmp_path / name)  # of another repository, perhaps
    done = run(script, **hub)
    assert done.returncode == 2 and 'is another file' in done.stderr


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
        b'HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc',
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
