_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# From ImageNet weights of a ResNet without these gates, so that no stage is frozen
# (the stem is).
model = dict(
    backbone=dict(
        attention=dict(type='GEThetaMinus'),
        frozen_stages=0,
    )
)
