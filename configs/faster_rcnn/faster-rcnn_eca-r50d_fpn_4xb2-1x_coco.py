_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

# timm's ImageNet weights; kernel sizes 5, 5, 5, 7 as in the file. Without a
# network, name a local copy (eca-mmdet weights download, on a machine that has one).
model = dict(
    backbone=dict(
        _delete_=True,
        type='ECAResNetD',
        arch='50d',
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='ECAPretrained', checkpoint='hf://timm/ecaresnet50d.miil_in1k'
        ),
    )
)
