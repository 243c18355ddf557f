_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# One block, before the last residual block of res4 (Wang et al., CVPR 2018). The
# ImageNet weights have no such block; it starts as the identity.
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='NonLocal2d', reduction=2),
                stages=(False, False, True, False),
                position='before_last_block',
            )
        ],
    )
)
