_base_ = './mask-rcnn_eca-r50_fpn_ms-3x_coco.py'

# bfloat16 on GPUs that compute in it, else float16 with a loss scale.
optim_wrapper = dict(type='MixedPrecisionOptimWrapper')
