_base_ = 'mmdet::_base_/datasets/coco_detection.py'

val_evaluator = dict(type='CocoTableMetric')
test_evaluator = val_evaluator
