_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        type='NonLocalResNet',
        # The ImageNet weights have no such block; it starts as the identity.
        init_cfg=dict(new_layers=('non_local',)),
    )
)
