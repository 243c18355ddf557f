_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        plugins=[
            dict(cfg=dict(type='SqueezeExcite', ratio=16), position='after_conv3')
        ],
        init_cfg=dict(checkpoint='checkpoints/se_resnet50.pth'),
    )
)
