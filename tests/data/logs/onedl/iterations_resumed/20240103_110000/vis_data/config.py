default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=20, type='CheckpointHook'),
    logger=dict(interval=10, type='LoggerHook'),
)
experiment_name = 'iterations_resumed-20240103_110000'
load_from = '/tmp/reclogs/onedl/iterations_resumed/iter_20.pth'
log_processor = dict(by_epoch=False)
model = dict(type='Line')
optim_wrapper = dict(clip_grad=dict(max_norm=10), optimizer=dict(lr=0.02, type='SGD'))
randomness = dict(seed=0)
resume = True
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=2,
    dataset=dict(count=6, type='Points'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
test_evaluator = dict(type='Error')
train_cfg = dict(max_iters=55, type='IterBasedTrainLoop', val_interval=25)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(count=46, type='Points'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=2,
    dataset=dict(count=6, type='Points'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_evaluator = dict(type='Error')
work_dir = '/tmp/reclogs/onedl/iterations_resumed'
