_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# timm's GCNet: a ResNet-50 with a tiered stem and global context in every block.
model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='gcresnet50t',
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='ECAPretrained',
            checkpoint='hf://timm/gcresnet50t.ra2_in1k',
        ),
    )
)
