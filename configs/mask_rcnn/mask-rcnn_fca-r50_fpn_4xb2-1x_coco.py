_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# The transform is as large as the maps of an ImageNet image: 56, 28, 14, 7.
model = dict(
    backbone=dict(
        attention=dict(type='FcaNet'),
        init_cfg=dict(checkpoint='checkpoints/fcanet50.pth'),
    )
)
