_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

# No public weights of this network: timm's only ResNet-200 file, resnet200d, is of
# another stem and other shortcuts. So it starts from random weights, with nothing
# frozen. For a file of yours, in timm's names, add to the backbone:
#     frozen_stages=1, norm_eval=True,
#     init_cfg=dict(type='ECAPretrained', checkpoint='checkpoints/...'),
model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='resnet200',
        frozen_stages=-1,
        norm_eval=False,
    )
)
