_base_ = 'mmdet::_base_/datasets/coco_detection.py'

# COCO's own numbers of detections an image. mmdet's default computes AP at 100 but
# AP50, AP75, APS, APM and APL at 1000.
val_evaluator = dict(proposal_nums=(1, 10, 100))
test_evaluator = val_evaluator
