# MMDetection v1's Cascade Mask R-CNN: its Cascade R-CNN and masks.
_base_ = './cascade-rcnn_r50_fpn_v1_coco.py'

model = dict(
    roi_head=dict(
        mask_roi_extractor=dict(
            type='V1RoIExtractor',
            roi_layer=dict(
                type='RoIAlign', output_size=14, sampling_ratio=2, aligned=True
            ),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type='V1MaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
        ),
    ),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
test_evaluator = dict(metric=['bbox', 'segm'])
