_base_ = './retinanet_eca-r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        depth=101,
        kernel_sizes=(3, 3, 5, 7),  # as in the checkpoint
        init_cfg=dict(checkpoint='checkpoints/eca_resnet101_k3357.pth.tar'),
    )
)
