# For the authors' faster_rcnn_ecanet101_3357_bs8_lr0.01, converted.
_base_ = './faster-rcnn_r101_fpn_v1_coco.py'

model = dict(backbone=dict(type='ECAResNet', kernel_sizes=(3, 3, 5, 7)))
