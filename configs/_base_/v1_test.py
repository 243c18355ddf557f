# Moved; kept for configs elsewhere that inherit it.
_base_ = './datasets/v1_test.py'
