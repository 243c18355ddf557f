_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(checkpoint='checkpoints/resnet101-63fe2227.pth')
    )
)
