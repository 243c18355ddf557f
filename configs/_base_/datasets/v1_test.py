# Test-time settings of MMDetection v1: its resizing, and its box sizes in results.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['eca_mmdet'], allow_failed_imports=False)
custom_hooks = [dict(type='MetricsFileHook')]
test_time_only = (
    'its components are those of MMDetection v1, for detectors that were trained with '
    'it. To train on, use a config outside of legacy/ with load_from=CONVERTED_FILE.'
)

test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='V1Resize', scale=(1333, 800), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoIndexDataset',
        data_root='data/coco/',
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=None,
    ),
)
test_evaluator = dict(
    type='V1CocoMetric',
    ann_file='data/coco/annotations/instances_val2017.json',
    metric='bbox',
    format_only=False,
    backend_args=None,
)
test_cfg = dict(type='TestLoop')
