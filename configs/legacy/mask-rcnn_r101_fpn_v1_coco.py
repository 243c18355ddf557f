_base_ = './mask-rcnn_r50_fpn_v1_coco.py'

model = dict(backbone=dict(depth=101))
