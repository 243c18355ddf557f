_base_ = './faster-rcnn_eca-r50d_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        arch='101d',
        init_cfg=dict(checkpoint='hf://timm/ecaresnet101d.miil_in1k'),
    )
)
