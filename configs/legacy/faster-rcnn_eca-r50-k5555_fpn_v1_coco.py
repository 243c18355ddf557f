# For the authors' faster_rcnn_ecanet50_k5_bs8_lr0.01, converted.
# The name says k5, no more: `eca-mmdet weights inspect FILE` reads the sizes of every
# stage. If they are others: --cfg-options "model.backbone.kernel_sizes=(3,5,5,7)".
_base_ = './faster-rcnn_r50_fpn_v1_coco.py'

model = dict(backbone=dict(type='ECAResNet', kernel_sizes=(5, 5, 5, 5)))
