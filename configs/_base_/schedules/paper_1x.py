# The paper's recipe: 4 GPUs x 2 images, 12 epochs, lr divided by 10 after 8 and 11.
_base_ = [
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['eca_mmdet'], allow_failed_imports=False)
custom_hooks = [dict(type='MetricsFileHook')]

# mmdet's 0.02 is for 16 images a step: 0.02 * 8 / 16.
optim_wrapper = dict(optimizer=dict(lr=0.01))
# Enabled, so that mmdet's own train.py follows the batch as well.
auto_scale_lr = dict(enable=True, base_batch_size=8)
