_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

# The maps are those of the dense blocks, before the transitions halve the channels.
model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='densenet161',
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='ECAPretrained', checkpoint='hf://timm/densenet161.tv_in1k'),
    ),
    neck=dict(in_channels=[384, 768, 2112, 2208]),
)
