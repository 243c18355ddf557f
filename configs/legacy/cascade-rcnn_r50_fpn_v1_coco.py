# MMDetection v1's Cascade R-CNN: test-time only, for checkpoints that
# `eca-mmdet weights convert` made of v1's (docs/legacy.md).
_base_ = [
    'mmdet::_base_/models/cascade-rcnn_r50_fpn.py',
    '../_base_/datasets/v1_test.py',
]
head = dict(
    type='V1BBoxHead',
    in_channels=256,
    fc_out_channels=1024,
    roi_feat_size=7,
    num_classes=80,
    reg_class_agnostic=True,
)
model = dict(
    backbone=dict(init_cfg=None),
    rpn_head=dict(
        type='V1RPNHead',
        anchor_generator=dict(type='LegacyAnchorGenerator', center_offset=0.5),
        bbox_coder=dict(type='V1BoxCoder'),
    ),
    roi_head=dict(
        type='V1CascadeRoIHead',
        bbox_roi_extractor=dict(
            type='V1RoIExtractor', roi_layer=dict(sampling_ratio=2, aligned=True)
        ),
        bbox_head=[
            dict(
                bbox_coder=dict(type='V1BoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                **head,
            ),
            dict(
                bbox_coder=dict(type='V1BoxCoder', target_stds=[0.05, 0.05, 0.1, 0.1]),
                **head,
            ),
            dict(
                bbox_coder=dict(
                    type='V1BoxCoder', target_stds=[0.033, 0.033, 0.067, 0.067]
                ),
                **head,
            ),
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, min_bbox_size=-1)),
)
