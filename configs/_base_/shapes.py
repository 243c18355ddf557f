# Moved; kept for configs elsewhere that inherit it.
_base_ = ['./datasets/shapes.py', './schedules/shapes.py']
