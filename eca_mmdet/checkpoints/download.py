"""Local files for paths, names and addresses; only one process downloads.

Addresses: ``http(s)://``, ``torchvision://resnet50``, ``open-mmlab://resnext101_64x4d``
(mmengine's names) and
``hf://OWNER/REPOSITORY[/FILE][@REVISION]`` (the Hugging Face Hub).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import html
import logging
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any

from eca_mmdet.utils.errors import MissingWeightsError, UserError, WeightsError
from eca_mmdet.utils.io import sha256_of, whole_file
from eca_mmdet.utils.text import (
    clipped,
    first_line,
    printable,
    progress,
    suggestion,
)

logger = logging.getLogger(__name__)

FOLDER = 'checkpoints'
"""Where the configs look for files, relative to the folder that one runs in."""

_SCHEMES = ('http', 'https', 'hf', 'torchvision', 'open-mmlab')
_HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
_PATIENCE = 30  # seconds for the next bytes of a server

_DRIVE = 'https://drive.usercontent.google.com/download?id={}&export=download&confirm=t'
_ON_DRIVE = {  # BangguWu/ECANet README: ImageNet, and detectors of MMDetection v1
    'eca_resnet18_k3577.pth.tar': '1LMRFRTyzVifGBi2MUpTuYEWW44S8mwyl',
    'eca_resnet34_k3357.pth.tar': '15LV5Jkea3GPzvLP5__H7Gg88oNQUxBDE',
    'eca_resnet50_k3557.pth.tar': '1670rce333c_lyMWFzBlNZoVUvtxbCF_U',
    'eca_resnet101_k3357.pth.tar': '1b5FQ8yDFnZ_UhvWT9txmjI_LjbKkgnvC',
    'eca_resnet152_k3357.pth.tar': '1_bYnaOg9ptsILC_iC7uQ5Izv-u2rjYG5',
    'eca_mobilenetv2_k13.pth.tar': '1FxzeXPg1SJQZzVVH4HRjMeq_SVMfidUm',
    'faster_rcnn_ecanet50_k5_bs8_lr0.01': '1myjDQIHRiYdTXm7DJjlFe_oyALhHXkrS',
    'faster_rcnn_ecanet101_3357_bs8_lr0.01': '1otCeuTSs4DRLTBIO6cYjm7e-5dQK1dMX',
    'mask_rcnn_ecanet50_k3377_bs8_lr0.01': '1z5sAqOD6zZzoVOyAd2VmBztmMXUKy-Nv',
    'mask_rcnn_ecanet101_k3357_bs8_lr0.01': '1Rv-VjdfWOt5mE45M0lihgv59fqnCAHQq',
    'RetinaNet_ecanet50_k3377_bs8_lr0.01': '1Pp6gndZFiZZo2BdbVmzUKQUtQ1m4kIbW',
    'RetinaNet_ecanet101_k3357_bs8_lr0.01': '1290duDtOGMpp3QrL47CRAq24oGPgbtct',
    'fcanet50.pth': '1O7qtqHSXdwRzUv_m6wrqB4TVF-rqJInB',  # cfzd/FcaNet README
}
_PYTORCH = 'https://download.pytorch.org/models/'
_SENET = 'https://github.com/moskomule/senet.pytorch/releases/download/archive/'

SOURCES = {name: _DRIVE.format(file_id) for name, file_id in _ON_DRIVE.items()} | {
    'resnet50-0676ba61.pth': _PYTORCH + 'resnet50-0676ba61.pth',
    'resnet101-63fe2227.pth': _PYTORCH + 'resnet101-63fe2227.pth',
    'se_resnet50.pth': _SENET + 'seresnet50-60a8950a85b2b.pkl',
    'se_resnet101.pth': 'we know of no public file; an SE-ResNet-101 without biases, '
    'r = 16, with keys such as layer1.0.se.fc.0.weight',
}
"""Addresses of public checkpoints by file name; a sentence where there is none."""


_OTHERWISE = (
    'To train with another file: --weights FILE with --data, else --cfg-options '
    'model.backbone.init_cfg.checkpoint=FILE; from random weights: --from-scratch.'
)


def missing_file_message(checkpoint: str) -> str:
    """Return how to get a missing backbone file, and how to train without it."""
    path = PurePosixPath(checkpoint)
    source = SOURCES.get(path.name, '')
    get = f'Put it there: {source}.' if source else 'Is the path right?'
    if is_address(source):
        folder = '' if str(path.parent) == FOLDER else f' --dir {path.parent}'
        get = f'Download it: eca-mmdet weights download {path.name}{folder}.'
    return (
        f'backbone weights {checkpoint!r} not found (relative to the folder you run '
        f'in). {get} {_OTHERWISE}'
    )


def is_address(checkpoint: str) -> bool:
    """Return whether this is an address, not a local path."""
    return '://' in checkpoint


def is_fetched(checkpoint: str) -> bool:
    """Return whether :func:`fetch` knows this kind of address, or it is a path."""
    return not is_address(checkpoint) or checkpoint.partition('://')[0] in _SCHEMES


def local_file(source: str | Path) -> Path:
    """Return a path as it is, an address as the downloaded file."""
    return fetch(str(source)) if is_address(str(source)) else Path(source)


def fetch(checkpoint: str) -> Path:
    """Return the local file; rank 0 downloads it, the other processes wait."""
    if not is_address(checkpoint):
        path = Path(checkpoint).expanduser()
        if not os.path.lexists(path):
            raise MissingWeightsError(missing_file_message(checkpoint))
        return path
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return _download(checkpoint)
    # A failure is sent too: the other processes must not wait for ever.
    answer: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            answer[0] = _download(checkpoint)
        except Exception as error:
            failed = WeightsError(f'{checkpoint}: {error!r}', code='download-failed')
            answer[0] = error if isinstance(error, UserError) else failed
    from mmengine.dist import broadcast_object_list

    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    # Without a shared disk, each further machine gets its own copy.
    return answer[0] if answer[0].exists() else _download(checkpoint)


def download(name: str, folder: str | Path | None = None) -> Path:
    """Download a checkpoint unless it is there, and return its path.

    Args:
        name: a name in ``SOURCES``, or an address.
        folder: for the file; None for ``checkpoints``, where the configs look, and for
            an address the cache, where training looks.

    Raises:
        WeightsError: it cannot be downloaded, or another file is in its place.
    """
    source, original = SOURCES.get(name, name), None
    if not is_address(source):
        near = f'it is not in eca-mmdet weights list.{suggestion(name, [*SOURCES])}'
        reason = f'{source}.' if name in SOURCES else near
        raise MissingWeightsError(f'{name} cannot be downloaded: {reason}')
    if folder is None and name == source:
        return fetch(source)
    if source.startswith('hf://'):
        original = fetch(source)
    else:
        source = _http_address(source)
    file = Path(folder or FOLDER).expanduser()
    file /= _file_name(name if name in SOURCES else source)
    if os.path.lexists(file):
        try:
            digest = _digest(file, sha256_of(original) if original else _stated(source))
        except UserError as error:
            raise WeightsError(
                f'{error} Move it away first.', code='output-exists'
            ) from error
        logger.warning('%s is there already, sha256 %s', file, digest)
    elif original:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial:
            shutil.copyfile(original, partial)
    else:
        _save(source, file)
    return file


def _stated(address: str) -> str:
    """Return the start of the SHA-256 that an address states, or ''.

    It is in torch's names, such as resnet50-0676ba61.pth; digits only are a date.
    """
    found = re.search(r'-(?!\d{8}\.)([0-9a-f]{8})\.\w+$', _file_name(address))
    return found[1] if found else ''


def _digest(file: Path, stated: str) -> str:
    """Return the SHA-256 of a checkpoint, and reject it if another start is stated."""
    from eca_mmdet.checkpoints.io import read_checkpoint

    digest = read_checkpoint(file).sha256
    if not digest.startswith(stated):
        reason = f'its sha256 is {digest}, not {stated[:8]}...'
        raise WeightsError(f'{file} is another file: {reason}', code='download-failed')
    return digest


def _download(address: str) -> Path:
    """Return the file in the Hub's cache or in torch's."""
    import torch

    if address.startswith('hf://'):
        return _from_hub(address)
    address = _http_address(address)
    # Files of the same name from two addresses must not stand for each other.
    folder = hashlib.sha256(address.encode('utf-8', 'replace')).hexdigest()[:16]
    file = Path(torch.hub.get_dir()) / 'eca_mmdet' / folder / _file_name(address)
    if not file.exists():
        _save(address, file)
    return file


def _http_address(address: str) -> str:
    scheme, _, rest = address.partition('://')
    if scheme in ('torchvision', 'open-mmlab'):
        from mmengine.runner import checkpoint

        named = {
            'torchvision': checkpoint.get_torchvision_models,
            'open-mmlab': checkpoint.get_external_models,
        }[scheme]()
        if rest not in named:
            raise MissingWeightsError(f'{scheme} has no weights called {rest!r}.')
        return str(named[rest])
    if scheme not in _SCHEMES:
        raise WeightsError(
            f'{address}: an address starts with one of '
            f'{", ".join(f"{name}://" for name in _SCHEMES)}; everything else is a '
            'path.',
            code='option-invalid',
        )
    return address


def _file_name(address: str) -> str:
    """Return the name of the file at an address, for any file system."""
    try:
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    except ValueError as error:
        raise WeightsError(
            f'{address} is not an address: {error}.', code='option-invalid'
        ) from error
    name = re.sub(r'[^A-Za-z0-9_.+-]', '_', PurePosixPath(path).name)
    return name[-100:] or 'weights'


def _save(address: str, file: Path) -> None:
    """Download a checkpoint; a part that is left of an earlier try is continued."""
    shown, part = printable(address), None
    # A warning: stdout may be the command's result.
    logger.warning('downloading %s to %s', shown, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _received(address, file) as part:
            _digest(part, _stated(address))
            part.replace(file)
    except UserError as error:
        if part:
            part.unlink(missing_ok=True)
        reason = str(error).replace(str(part), 'what came')
        raise WeightsError(f'{shown}: {reason}', code=error.code) from error
    except (OSError, HTTPException, ValueError) as error:
        answered = isinstance(error, urllib.error.HTTPError)
        reason = first_line(error if answered else getattr(error, 'reason', error))
        raise MissingWeightsError(
            f'{shown} cannot be downloaded ({reason}). Try again later, or download it '
            f'with a browser and save it as {file}. {_OTHERWISE}',
            code='download-failed',
        ) from error


@contextlib.contextmanager
def _received(address: str, file: Path) -> Iterator[Path]:
    """Yield the whole content of an address in a part file beside ``file``, locked.

    The name of the part tells its version, so that those of two are never joined.
    """
    with contextlib.ExitStack() as stack:
        response = stack.enter_context(_open(address))
        version, size = _version(response), response.headers.get('Content-Length', '')
        key = hashlib.sha256(f'{address} {version} {size}'.encode()).hexdigest()[:8]
        part = file.with_name(f'{file.name}.{key}.part')
        out = stack.enter_context(part.open('ab'))
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(out, fcntl.LOCK_EX)
        if file.exists():  # another process has downloaded it
            part.unlink(missing_ok=True)
            yield file
            return
        total = int(size) if size.isdecimal() else None
        have = out.seek(0, os.SEEK_END)
        if not version or total is None or have > total:
            have = out.truncate(0)
        elif 0 < have < total:
            rest = stack.enter_context(_open(address, have))
            begin = (rest.headers.get('Content-Range') or '').partition('-')[0]
            if (begin, _version(rest)) == (f'bytes {have}', version):
                response = rest
            else:
                have = out.truncate(0)
        try:
            with progress(file.name, total) as advance:
                advance(have)
                while have != total and (block := response.read(1 << 18)):
                    have += out.write(block)
                    advance(len(block))
            if total not in (None, have):
                raise OSError(f'the connection ended after {have} of {total} bytes')
        except BaseException:  # KeyboardInterrupt is one
            if version and total:
                logger.warning('%s keeps what came; the next try goes on there', part)
            else:
                part.unlink()
            raise
        out.flush()
        yield part


def _version(response: HTTPResponse) -> str:
    """Return what tells the versions of a file apart, '' if the server does not."""
    tag = response.headers.get('ETag') or 'W/'
    return response.headers.get('Last-Modified') or '' if tag[:2] == 'W/' else tag


def _open(address: str, start: int = 0, confirmed: bool = False) -> HTTPResponse:
    """Request a file from a byte on, if the server can; confirm that it is wanted.

    Google Drive answers with a form where it cannot scan a large file for viruses, and
    with a page where too many users download a file.
    """
    quoted = urllib.parse.quote(address, safe="/:?#[]@!$&'()*+,;=%~-._")
    headers = {'User-Agent': 'eca-mmdet'}
    headers |= {'Range': f'bytes={start}-'} if start else {}
    request = urllib.request.Request(quoted, headers=headers)
    response: HTTPResponse = urllib.request.urlopen(request, timeout=_PATIENCE)
    if response.headers.get_content_type() != 'text/html':
        return response
    with response:
        page = html.unescape(response.read(1 << 20).decode('utf-8', 'replace'))
    form = re.search(r'<form[^>]* id="download-form".*?</form>', page, re.DOTALL)
    if form and not confirmed:
        action = re.search(r' action="(https?://[^"]+)"', form[0])
        fields = re.findall(r' name="([^"]+)"[^>]* value="([^"]*)"', form[0])
        if action:
            query = urllib.parse.urlencode(fields)
            return _open(f'{action[1]}?{query}', start, confirmed=True)
    title = re.search(r'<title>(.*?)</title>', page, re.DOTALL | re.IGNORECASE)
    reason = f'the answer is a web page, {clipped(title[1] if title else "")!r}'
    if 'quota' in page.lower():
        reason += ': too many users download this file, which can last for 24 hours'
    raise OSError(reason)


def _from_hub(checkpoint: str) -> Path:
    """Return a file of the Hub's cache, into which its own client downloads it."""
    rest = checkpoint.partition('://')[2]
    match = re.fullmatch(r'([\w.-]+/[\w.-]+?)(?:/([\w./-]+))?(?:@([\w./-]+))?', rest)
    if not match:
        raise WeightsError(
            f'{checkpoint}: expected hf://OWNER/REPOSITORY, with /FILE or @REVISION '
            'where needed; for example hf://timm/ecaresnet50d.miil_in1k.',
            code='option-invalid',
        )
    repository, file, revision = match.groups()
    names = (file,) if file else _HUB_FILES
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    get = functools.partial(hf_hub_download, repository, revision=revision)
    for name in names:  # use cached files without asking the Hub again
        with contextlib.suppress(LocalEntryNotFoundError, ValueError):
            return Path(get(name, local_files_only=True))
    logger.warning('downloading %s', checkpoint)
    hub, reason = logging.getLogger('huggingface_hub'), ''
    level = hub.level
    for name in names:
        hub.setLevel(logging.ERROR)  # hides its own lines; the last reason is reported
        try:
            path = Path(get(name))
        except Exception as error:  # the Hub's own, httpx's, OSError
            reason = first_line(error.__cause__ or error)  # the Hub wraps it
            absent = isinstance(error, EntryNotFoundError)
            if not absent or isinstance(error, LocalEntryNotFoundError):
                break  # no answer, or a refusal: the next name would have the same
            continue
        finally:
            hub.setLevel(level)
        # In the cache, the name of a large file is its SHA-256.
        blob = path.resolve()
        if not re.fullmatch('[0-9a-f]{64}', blob.name) or sha256_of(blob) == blob.name:
            return path
        blob.unlink()
        reason = f'{name} came with another sha256: try again'
        break
    raise MissingWeightsError(
        f'{checkpoint} is not in the cache and cannot be downloaded ({reason}). On a '
        f'machine with a network: eca-mmdet weights download {checkpoint} --dir . '
        f'(then copy the file). {_OTHERWISE}',
        code='download-failed',
    )
