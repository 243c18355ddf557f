_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# timm's SE-ResNet-50, whose gates have biases.
model = dict(
    backbone=dict(
        attention=dict(type='SqueezeExcite', ratio=16, bias=True),
        init_cfg=dict(checkpoint='hf://timm/seresnet50.a1_in1k'),
    )
)
