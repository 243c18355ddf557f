_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

# Without a network, name a local copy of the checkpoint.
model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='resnext101_32x4d',
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='ECAPretrained', checkpoint='hf://timm/resnext101_32x4d.gluon_in1k'
        ),
    )
)
