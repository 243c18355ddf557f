# Moved; kept for configs elsewhere that inherit it.
_base_ = './schedules/modern_3x.py'
