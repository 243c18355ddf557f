_base_ = './retinanet_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ECAMobileNetV2',  # kernel sizes 1, 1, 1, 1, 3, 3, 3 as in the file
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='ECAPretrained',
            checkpoint='checkpoints/eca_mobilenetv2_k13.pth.tar',
        ),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
