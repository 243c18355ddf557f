# Moved; kept for configs elsewhere that inherit it.
_base_ = './datasets/coco_detection.py'
