# For the authors' mask_rcnn_ecanet50_k3377_bs8_lr0.01, converted.
_base_ = './mask-rcnn_r50_fpn_v1_coco.py'

model = dict(backbone=dict(type='ECAResNet', kernel_sizes=(3, 3, 7, 7)))
