"""Which detectors the export of heads refuses, and which part it names."""

import pytest
import torch

from eca_mmdet.catalog.configs import config_root
from eca_mmdet.engine.config import build_model
from eca_mmdet.export.heads import require_covered
from eca_mmdet.utils.errors import UserError
from tests.support import exporting


def _soft(cfg):
    cfg.test_cfg.rcnn.nms.type = 'soft_nms'


def _agnostic(cfg):
    cfg.test_cfg.rpn.nms.class_agnostic = True


def _unlimited(cfg):
    cfg.test_cfg.rpn.nms_pre = -1


def _coder(cfg):
    cfg.roi_head.bbox_head.bbox_coder = dict(type='TBLRBBoxCoder', normalizer=4.0)


def _generator(cfg):
    cfg.rpn_head.anchor_generator = dict(
        type='SSDAnchorGenerator',
        strides=[4, 8, 16, 32, 64],
        ratios=[[2]] * 5,
        min_sizes=[8, 16, 32, 64, 128],
        max_sizes=[16, 32, 64, 128, 256],
    )


def _pooling(cfg):
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=0, pool_mode='max')
    cfg.roi_head.bbox_roi_extractor.roi_layer = layer


def _extractor(cfg):
    cfg.roi_head.bbox_roi_extractor.update(type='GenericRoIExtractor')


def _loss(cfg):
    cfg.roi_head.bbox_head.loss_cls = dict(type='SeesawLoss', num_classes=3)


def _rpn(cfg):
    cfg.rpn_head.type = 'V1RPNHead'


def _roi(cfg):
    cfg.roi_head.type = 'DoubleHeadRoIHead'
    cfg.roi_head.reg_roi_scale_factor = 1.3


@pytest.mark.parametrize(
    ('change', 'part'),
    [
        (_soft, 'test_cfg.rcnn.nms is'),
        (_agnostic, 'test_cfg.rpn.nms has class_agnostic'),
        (_unlimited, 'test_cfg.rpn.nms_pre is -1'),
        (_coder, 'bbox_head has boxes coded by TBLRBBoxCoder'),
        (_generator, 'rpn_head has anchors of SSDAnchorGenerator'),
        (_pooling, 'bbox_roi_extractor pools by RoIAlign'),
        (_extractor, 'bbox_roi_extractor is a GenericRoIExtractor'),
        (_loss, 'scores of SeesawLoss'),
        (_rpn, 'rpn_head is a V1RPNHead'),
        (_roi, 'roi_head is a DoubleHeadRoIHead'),
    ],
)
def test_parts_that_are_not_covered(change, part, legacy, shapes):
    from mmdet.registry import MODELS

    cfg, _ = exporting.random_detector('faster', shapes)
    change(cfg.model)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    with pytest.raises(UserError, match='--part backbone') as caught:
        require_covered(model)
    assert part in str(caught.value)


@pytest.mark.openmmlab
@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('legacy/mask-rcnn_r50_fpn_v1_coco.py', 'V1'),
        ('legacy/retinanet_r50_fpn_v1_coco.py', 'V1'),
        ('legacy/cascade-mask-rcnn_r50_fpn_v1_coco.py', 'another kind|V1'),
        ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'has no anchors'),
        ('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'CascadeRoIHead'),
        ('mmdet::atss/atss_r50_fpn_1x_coco.py', 'own'),
        ('mmdet::yolox/yolox_s_8xb8-300e_coco.py', 'has no anchors'),
    ],
)
def test_detectors_that_are_not_covered(name, part, legacy):
    from pathlib import Path

    import mmdet
    from mmengine.config import Config

    root = config_root()
    if name.startswith('mmdet::'):
        name, root = name[7:], Path(mmdet.__file__).parent / '.mim' / 'configs'
    model = build_model(Config.fromfile(str(root / name)), 'meta')
    with pytest.raises(UserError, match=part):
        require_covered(model)
