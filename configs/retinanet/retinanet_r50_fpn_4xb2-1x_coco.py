_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/paper_1x.py',
]
model = dict(
    data_preprocessor=dict(non_blocking=True),
    backbone=dict(
        type='PluginResNet',  # mmdet's, in less memory and time (docs/performance.md)
        init_cfg=dict(
            _delete_=True,
            type='ECAPretrained',
            checkpoint='checkpoints/resnet50-0676ba61.pth',
        ),
    ),
)
