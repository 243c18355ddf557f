# For the authors' RetinaNet_ecanet101_k3357_bs8_lr0.01, converted.
_base_ = './retinanet_r101_fpn_v1_coco.py'

model = dict(backbone=dict(type='ECAResNet', kernel_sizes=(3, 3, 5, 7)))
