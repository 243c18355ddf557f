"""The sound files that bad ones are made of: small, and real of their kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

STEM = 'tiny'


def write(folder: str) -> None:
    """Write every original. Imports mmdet."""
    import cv2
    import torch

    from eca_mmdet.datasets.shapes import write_shapes
    from tests.support.report_runs import detections, write_run

    torch.manual_seed(0)
    root = Path(folder)
    data = write_shapes(root / 'data', sizes={'train': 4, 'val': 3}, side=64)
    content = json.loads((data / 'annotations' / 'val.json').read_text())
    found = detections(content, 0)
    (root / 'masks.json').write_text(json.dumps(found))
    boxes = [{k: v for k, v in one.items() if k != 'segmentation'} for one in found]
    (root / 'boxes.json').write_text(json.dumps(boxes))
    shutil.copytree(data / 'val', root / 'coco' / 'val2017')
    (root / 'coco' / 'annotations').mkdir()
    shutil.copy(
        data / 'annotations' / 'val.json',
        root / 'coco' / 'annotations' / 'instances_val2017.json',
    )
    picture = cv2.imread(str(data / 'val' / content['images'][0]['file_name']))
    for suffix in ('jpg', 'png', 'webp', 'bmp', 'tiff'):
        cv2.imwrite(str(root / f'picture.{suffix}'), picture)
    _write_video(root / 'clip.avi', picture)
    _write_weights(root)
    text = _write_detector(root, data)
    write_run(
        root / 'run', data, config=text, checkpoint=root / 'checkpoint.pth', name=STEM
    )
    shutil.copy(root / 'checkpoint.pth', root / 'run')


def _write_video(path: Path, picture) -> None:
    import cv2

    height, width = picture.shape[:2]
    code = cv2.VideoWriter.fourcc(*'MJPG')
    video = cv2.VideoWriter(str(path), code, 5, (width, height))
    for _ in range(3):
        video.write(picture)
    video.release()


def _write_weights(root: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from tests.references.networks import (
        AuthorsResNet,
        randomise,
        retinanet_state,
        save_as_the_authors,
    )

    model = randomise(AuthorsResNet(18, (3, 5, 7, 7), width=4, classes=10))
    state = model.state_dict()
    torch.save(state, root / 'zip.pth')
    torch.save(state, root / 'legacy.pth', _use_new_zipfile_serialization=False)
    save_file(state, root / 'plain.safetensors', metadata={'source': 'here'})
    save_as_the_authors(model, root / 'authors.pth.tar')
    backbone = randomise(AuthorsResNet(50, (5, 5, 5, 5), width=2))
    torch.save({'state_dict': retinanet_state(backbone, 3)}, root / 'v1.pth')


def _write_detector(root: Path, data: Path) -> str:
    """Write a checkpoint as mmengine does, and its config; return that as text."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.logging import HistoryBuffer

    from eca_mmdet.demo import run as demo

    cfg = demo.compose('retinanet', 'eca', 18, data, 0)
    cfg.model.backbone.base_channels = 4
    cfg.model.neck.update(in_channels=[4, 8, 16, 32], out_channels=8)
    cfg.model.bbox_head.update(in_channels=8, feat_channels=8)
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)
    torch.nn.init.zeros_(model.bbox_head.retina_cls.bias)
    state = model.state_dict()
    hub = {'log_scalars': {'train/loss': HistoryBuffer([1.0], [1])}}
    classes = cfg.test_dataloader.dataset.metainfo.classes
    meta = {
        'cfg': cfg.pretty_text,
        'dataset_meta': {'classes': classes},
        'epoch': 1,
        'iter': 4,
    }
    checkpoint = {'meta': meta, 'state_dict': state, 'message_hub': hub}
    torch.save(checkpoint, root / 'checkpoint.pth')
    (root / f'{STEM}.py').write_text(cfg.pretty_text)
    return cfg.pretty_text
