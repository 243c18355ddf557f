"""Where to get the backbone files that the configs name. No heavy import.

Source: BangguWu/ECANet README (ECA files), torchvision (plain ResNet), the state-dict
layout of moskomule/senet.pytorch (SE), cfzd/FcaNet README.
"""

from __future__ import annotations

from pathlib import PurePosixPath

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
    """Say what a missing backbone file is, where to get it and how to do without.

    Args:
        checkpoint: the path as the config gives it.
    """
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
