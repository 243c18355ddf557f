_base_ = './mask-rcnn_eca-r50_fpn_ms-3x_coco.py'

optim_wrapper = dict(type='AmpOptimWrapper')
