_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/modern_3x.py',
]
model = dict(
    data_preprocessor=dict(non_blocking=True),
    backbone=dict(
        type='ECAResNet',
        kernel_sizes=(3, 5, 5, 7),  # as in the checkpoint
        init_cfg=dict(
            _delete_=True,
            type='ECAPretrained',
            checkpoint='checkpoints/eca_resnet50_k3557.pth.tar',
        ),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
