_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# The ImageNet weights have no such block; it starts as the identity.
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='ContextBlock', ratio=1.0 / 16),
                stages=(False, True, True, True),
                position='after_conv3',
            )
        ],
    )
)
