# Moved; kept for configs elsewhere that inherit it.
_base_ = './schedules/paper_1x.py'
