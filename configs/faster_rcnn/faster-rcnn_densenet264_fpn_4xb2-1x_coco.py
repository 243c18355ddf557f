_base_ = './faster-rcnn_r50_fpn_4xb2-1x_coco.py'

# The DenseNet-264 of the DenseNet paper: growth rate 32 and one 7x7 convolution as
# stem. timm's densenet264d is another network (growth rate 48, three 3x3 convolutions),
# so this is its densenet121 with other block sizes. No public weights: it starts from
# random ones, with nothing frozen.
model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='densenet121',
        model_args=dict(growth_rate=32, block_config=(6, 12, 64, 48)),
        frozen_stages=-1,
        norm_eval=False,
    ),
    neck=dict(in_channels=[256, 512, 2304, 2688]),
)
