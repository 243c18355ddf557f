_base_ = './mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        type='ECAResNet',
        kernel_sizes=(3, 5, 5, 7),  # as in the checkpoint
        init_cfg=dict(checkpoint='checkpoints/eca_resnet50_k3557.pth.tar'),
    )
)
