_base_ = 'mmdet::_base_/datasets/coco_detection.py'

# The samples of CocoDataset, without reading the whole annotation file at each start.
# Pinned memory: a GPU copies images while it computes.
train_dataloader = dict(pin_memory=True, dataset=dict(type='CocoIndexDataset'))
val_dataloader = dict(pin_memory=True, dataset=dict(type='CocoIndexDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoTableMetric')
test_evaluator = val_evaluator
