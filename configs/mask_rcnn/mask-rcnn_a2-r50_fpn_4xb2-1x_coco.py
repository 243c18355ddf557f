_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# After res3 and res4. (The paper has its five blocks inside of these two.)
# The ImageNet weights have no such block; it starts as the identity.
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='DoubleAttention'),
                stages=(False, True, True, False),
                position='after_stage',
            )
        ],
    )
)
