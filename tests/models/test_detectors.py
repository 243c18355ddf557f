"""Detectors of mmdet's own configs train and detect with the supplied operators."""

from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.openmmlab,
    pytest.mark.slow,
    pytest.mark.usefixtures('supplied_operators'),
]

CONFIGS = {
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': 'nms, roi_align',
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py': 'deform_conv',
    'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py': 'modulated_deform_conv',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': 'ms_deform_attn',
    'pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py': 'nms_match',
    'reppoints/reppoints-moment_r50_fpn_1x_coco.py': 'deform_conv',
}


@pytest.mark.parametrize('name', CONFIGS)
def test_loss_reaches_the_backbone_and_detection_is_finite(mmdet_ready, name):
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config

    cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / name)
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.frozen_stages = -1
    cfg.model.backbone.base_channels = 16
    neck = cfg.model.neck
    neck.in_channels = [c // 4 for c in neck.in_channels]
    model = MODELS.build(cfg.model)
    model.init_weights()  # Deformable DETR's level embedding is bare memory before
    model.train()
    inputs = dict(
        image_shapes=[[3, 96, 128], [3, 128, 96]],
        num_items=[3, 2],
        num_classes=80,
        with_mask='mask' in name,
    )
    data = model.data_preprocessor(demo_mm_inputs(2, **inputs), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    first = model.backbone.conv1.weight.grad
    assert first.isfinite().all() and first.abs().sum() > 0

    model.eval()
    data = model.data_preprocessor(demo_mm_inputs(2, **inputs), training=False)
    with torch.no_grad():
        samples = model(**data, mode='predict')
    for sample in samples:
        assert sample.pred_instances.bboxes.isfinite().all()
