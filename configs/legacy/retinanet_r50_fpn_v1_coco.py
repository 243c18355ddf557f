# MMDetection v1's RetinaNet: test-time only, for checkpoints that
# `eca-mmdet weights convert` made of v1's (docs/legacy.md).
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/v1_test.py',
]
model = dict(
    backbone=dict(init_cfg=None),
    neck=dict(add_extra_convs='on_input'),
    bbox_head=dict(
        type='V1RetinaHead',
        anchor_generator=dict(type='LegacyAnchorGenerator', center_offset=0.5),
        bbox_coder=dict(type='V1BoxCoder'),
    ),
    test_cfg=dict(nms_pre=1000, min_bbox_size=-1, score_thr=0.05, max_per_img=100),
)
