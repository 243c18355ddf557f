_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# From ImageNet weights of the plain ResNet: the gates start random, so that no stage
# is frozen (the stem is).
model = dict(
    backbone=dict(
        attention=dict(type='GETheta'),
        frozen_stages=0,
        init_cfg=dict(random_gates=True),
    )
)
