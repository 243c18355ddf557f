_base_ = '../_base_/models/new_gates.py'

model = dict(backbone=dict(attention=dict(type='ECANS')))
