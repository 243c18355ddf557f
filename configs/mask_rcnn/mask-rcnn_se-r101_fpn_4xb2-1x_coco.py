_base_ = './mask-rcnn_se-r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='checkpoints/se_resnet101.pth'))
)
