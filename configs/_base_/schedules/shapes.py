# 520 iterations of 8 images, a few minutes on two CPU cores.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['eca_mmdet'], allow_failed_imports=False)
custom_hooks = [dict(type='MetricsFileHook')]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=520, val_interval=520)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=30,
        T_max=490,
        eta_min_ratio=0.01,
    ),
]
auto_scale_lr = dict(enable=True, base_batch_size=8)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=520, max_keep_ckpts=1),
)
randomness = dict(seed=0)
