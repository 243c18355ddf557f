# MMDetection v1's Faster R-CNN: test-time only, for checkpoints that
# `eca-mmdet weights convert` made of v1's (docs/legacy.md).
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/v1_test.py',
]
model = dict(
    backbone=dict(init_cfg=None),
    rpn_head=dict(
        type='V1RPNHead',
        anchor_generator=dict(type='LegacyAnchorGenerator', center_offset=0.5),
        bbox_coder=dict(type='V1BoxCoder'),
    ),
    roi_head=dict(
        type='V1StandardRoIHead',
        bbox_roi_extractor=dict(
            type='V1RoIExtractor', roi_layer=dict(sampling_ratio=2, aligned=True)
        ),
        bbox_head=dict(type='V1BBoxHead', bbox_coder=dict(type='V1BoxCoder')),
    ),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, min_bbox_size=-1)),
)
