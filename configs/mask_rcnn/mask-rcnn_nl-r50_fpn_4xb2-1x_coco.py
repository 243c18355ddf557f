_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# The ImageNet weights have no such block; it starts as the identity.
model = dict(
    backbone=dict(
        type='NonLocalResNet',
    )
)
