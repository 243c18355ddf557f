# RetinaNet on a ResNet-18 of a quarter of the width, from random weights, for images
# of 160 px.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/shapes.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=32, non_blocking=True),
    backbone=dict(
        type='ECAResNet',
        depth=18,
        kernel_sizes=(3, 5, 7, 7),
        base_channels=16,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    # From stride 4 up: the objects are 18 to 80 px wide.
    neck=dict(
        in_channels=[16, 32, 64, 128],
        out_channels=64,
        start_level=0,
        num_outs=5,
        norm_cfg=dict(type='BN'),
    ),
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(octave_base_scale=4, strides=[4, 8, 16, 32, 64]),
    ),
)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
