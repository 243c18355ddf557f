# The paper's Mask R-CNN, for gates of which there are no ImageNet weights. They start
# random in the plain ResNet's, so that no stage is frozen (the stem is).
_base_ = '../../mask_rcnn/mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(backbone=dict(frozen_stages=0, init_cfg=dict(random_gates=True)))
