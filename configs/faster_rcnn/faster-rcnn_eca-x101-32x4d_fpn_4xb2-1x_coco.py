_base_ = './faster-rcnn_x101-32x4d_fpn_4xb2-1x_coco.py'

# The public file has no gates. They start random, and so the stem alone is frozen.
# Kernel sizes from the channels of the stages: 5, 5, 5, 7.
model = dict(
    backbone=dict(
        attention=dict(type='ECALayer'),
        frozen_stages=0,
        init_cfg=dict(random_gates=True),
    )
)
