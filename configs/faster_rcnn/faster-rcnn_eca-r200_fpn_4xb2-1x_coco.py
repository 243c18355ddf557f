_base_ = './faster-rcnn_r200_fpn_4xb2-1x_coco.py'

# From random weights, as the network without gates. Kernel sizes from the channels of
# the stages: 5, 5, 5, 7.
model = dict(backbone=dict(attention=dict(type='ECALayer')))
