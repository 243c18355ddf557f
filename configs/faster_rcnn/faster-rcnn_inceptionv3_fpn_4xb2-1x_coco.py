_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    # The file's: pixels in [-1, 1].
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='inception_v3',
        # These layers shrink their input by a border. With it, cell (i, j) of a map
        # lies at stride * (i, j) of the image, as the anchors and RoIs suppose.
        padding=dict(
            Conv2d_1a_3x3=1,
            Conv2d_2a_3x3=1,
            Pool1=1,
            Conv2d_4a_3x3=1,
            Pool2=1,
            Mixed_6a=1,
            Mixed_7a=1,
        ),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='ECAPretrained', checkpoint='hf://timm/inception_v3.tv_in1k'
        ),
    ),
    neck=dict(in_channels=[192, 288, 768, 2048]),
)
