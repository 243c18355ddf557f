"""Local files for paths and addresses; only one process downloads.

Addresses: ``http(s)://``, ``torchvision://resnet50``, ``open-mmlab://resnext101_64x4d``
(mmengine's names) and
``hf://OWNER/REPOSITORY[/FILE][@REVISION]`` (the Hugging Face Hub).

Sources of the backbone files that the configs name: BangguWu/ECANet README (ECA),
torchvision (plain ResNet), the state-dict layout of moskomule/senet.pytorch (SE),
cfzd/FcaNet README.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import sys
import urllib.error
import urllib.parse
from pathlib import Path, PurePosixPath
from typing import Any

from eca_mmdet.utils.errors import MissingWeightsError, UserError, WeightsError
from eca_mmdet.utils.text import printable

logger = logging.getLogger(__name__)

_SCHEMES = ('http', 'https', 'hf', 'torchvision', 'open-mmlab')
_HUB_FILES = ('model.safetensors', 'pytorch_model.bin')

_DRIVE = "the ECA-Net authors' Google Drive, file id {} (BangguWu/ECANet README)"
_TORCHVISION = 'https://download.pytorch.org/models/{}'
_SE = (
    'an SE-ResNet-{} state dict without biases, r = 16, keys as '
    'layer1.0.se.fc.0.weight (the layout of moskomule/senet.pytorch{})'
)

SOURCES = {
    'eca_resnet18_k3577.pth.tar': _DRIVE.format('1LMRFRTyzVifGBi2MUpTuYEWW44S8mwyl'),
    'eca_resnet34_k3357.pth.tar': _DRIVE.format('15LV5Jkea3GPzvLP5__H7Gg88oNQUxBDE'),
    'eca_resnet50_k3557.pth.tar': _DRIVE.format('1670rce333c_lyMWFzBlNZoVUvtxbCF_U'),
    'eca_resnet101_k3357.pth.tar': _DRIVE.format('1b5FQ8yDFnZ_UhvWT9txmjI_LjbKkgnvC'),
    'eca_resnet152_k3357.pth.tar': _DRIVE.format('1_bYnaOg9ptsILC_iC7uQ5Izv-u2rjYG5'),
    'eca_mobilenetv2_k13.pth.tar': _DRIVE.format('1FxzeXPg1SJQZzVVH4HRjMeq_SVMfidUm'),
    'resnet50-0676ba61.pth': _TORCHVISION.format('resnet50-0676ba61.pth'),
    'resnet101-63fe2227.pth': _TORCHVISION.format('resnet101-63fe2227.pth'),
    'se_resnet50.pth': _SE.format(50, ', which publishes one for ResNet-50'),
    'fcanet50.pth': (
        "the FcaNet authors' ImageNet FcaNet-50 (cfzd/FcaNet README), saved under this "
        'name'
    ),
    'se_resnet101.pth': _SE.format(101, '; we know of no public file'),
}


def missing_file_message(checkpoint: str) -> str:
    """Return where to get a missing backbone file, and how to train without it."""
    source = SOURCES.get(PurePosixPath(checkpoint).name)
    get = (
        f'Get it from {source} and put it there'
        if source
        else 'Put it there, or name another with '
        '--cfg-options model.backbone.init_cfg.checkpoint=PATH'
    )
    return (
        f'backbone weights {checkpoint!r} not found (relative to the folder you run '
        f'in). {get}; docs/weights.md lists all. Or train from random weights: '
        "eca-mmdet train --from-scratch, with mmdet's own train.py --cfg-options "
        'model.backbone.init_cfg=None model.backbone.frozen_stages=-1 '
        'model.backbone.norm_eval=False.'
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
        except UserError as error:
            answer[0] = error
        except Exception as error:
            answer[0] = WeightsError(f'{checkpoint}: {error!r}', code='download-failed')
    from mmengine.dist import broadcast_object_list

    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    # Without a shared disk, each further machine gets its own copy.
    return answer[0] if answer[0].exists() else _download(checkpoint)


def _download(address: str) -> Path:
    scheme, _, rest = address.partition('://')
    if scheme == 'hf':
        return _from_hub(address, rest)
    if scheme in ('torchvision', 'open-mmlab'):
        from mmengine.runner import checkpoint

        named = {
            'torchvision': checkpoint.get_torchvision_models,
            'open-mmlab': checkpoint.get_external_models,
        }[scheme]()
        if rest not in named:
            raise MissingWeightsError(f'{scheme} has no weights called {rest!r}.')
        address = named[rest]
    elif scheme not in _SCHEMES:
        raise WeightsError(
            f'{address}: an address starts with one of '
            f'{", ".join(f"{name}://" for name in _SCHEMES)}; everything else is a '
            'path.',
            code='option-invalid',
        )
    return _from_http(address)


def _from_http(address: str) -> Path:
    """Download into torch's cache folder; only readable weights are kept."""
    import torch

    from eca_mmdet.checkpoints.io import read_checkpoint

    try:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    except ValueError as error:
        raise WeightsError(
            f'{address} is not an address: {error}.', code='option-invalid'
        ) from error
    name = re.sub(r'[^A-Za-z0-9_.+-]', '_', name)[-100:] or 'weights'
    # Files of the same name from two addresses must not stand for each other.
    folder = hashlib.sha256(address.encode('utf-8', 'replace')).hexdigest()[:16]
    file = Path(torch.hub.get_dir()) / 'eca_mmdet' / folder / name
    # torch's names end in a checksum: 'resnet50-0676ba61.pth'. Digits only are a date.
    checksum = re.search(r'-(?!\d{8}\.)([0-9a-f]{8})\.\w+$', name)
    if file.exists():
        return file
    # A warning: stdout may be the command's result.
    logger.warning('downloading %s to %s', printable(address), file)
    fresh = file.with_name(f'{file.name}.{os.getpid()}.fresh')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            urllib.parse.quote(address, safe="/:?#[]@!$&'()*+,;=%~-._"),
            str(fresh),
            checksum and checksum[1],
            progress=sys.stderr.isatty(),
        )
        read_checkpoint(fresh)
        fresh.replace(file)
    except UserError as error:
        raise WeightsError(
            f'{address}: {str(error).replace(str(fresh), "what came")}',
            code=error.code,
        ) from error
    except Exception as error:  # urllib, http.client and torch raise a dozen types
        answered = isinstance(error, urllib.error.HTTPError)
        reason = error if answered else getattr(error, 'reason', error)
        raise MissingWeightsError(
            f'{address} cannot be downloaded ({_first_line(reason)}). Download it '
            'elsewhere, and give its path.',
            code='download-failed',
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
    return file


def _from_hub(checkpoint: str, rest: str) -> Path:
    match = re.fullmatch(r'([\w.-]+/[\w.-]+?)(?:/([\w./-]+))?(?:@([\w./-]+))?', rest)
    if not match:
        raise WeightsError(
            f'{checkpoint}: expected hf://OWNER/REPOSITORY, with /FILE or @REVISION '
            'where needed; for example hf://timm/ecaresnet50d.miil_in1k.',
            code='option-invalid',
        )
    repository, file, revision = match.groups()
    names = (file,) if file else _HUB_FILES
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise WeightsError(
            f"{checkpoint} needs huggingface_hub: pip install 'eca-mmdet[hub]'.",
            code='package-missing',
        ) from None
    get = functools.partial(hf_hub_download, repository, revision=revision)
    for name in names:  # use cached files without asking the Hub again
        with contextlib.suppress(LocalEntryNotFoundError, ValueError):
            return Path(get(name, local_files_only=True))
    logger.warning('downloading %s', checkpoint)
    hub = logging.getLogger('huggingface_hub')
    level = hub.level
    reason: Exception | None = None
    for name in names:
        hub.setLevel(logging.ERROR)  # hides its own lines; the last reason is reported
        try:
            return Path(get(name))
        except Exception as error:  # the Hub's own, httpx's, OSError
            reason = error
            absent = isinstance(error, EntryNotFoundError)
            if not absent or isinstance(error, LocalEntryNotFoundError):
                break  # no answer, or a refusal: the next name would have the same
        finally:
            hub.setLevel(level)
    raise MissingWeightsError(
        f'{checkpoint} is not in the cache and cannot be downloaded '
        f'({_first_line(reason)}). With a network: run this once there, or download '
        f'{" or ".join(names)} and give its path.',
        code='download-failed',
    ) from None


def _first_line(reason: Exception | None) -> str:
    reason = getattr(reason, '__cause__', None) or reason  # the Hub wraps it
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(reason).__name__
