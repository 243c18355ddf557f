# Faster R-CNN: the Mask R-CNN of the demo without its mask branch.
_base_ = './mask-rcnn_eca-r18-w16_fpn_shapes.py'

model = dict(
    type='FasterRCNN',
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
