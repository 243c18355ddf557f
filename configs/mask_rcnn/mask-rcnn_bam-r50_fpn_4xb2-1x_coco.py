_base_ = '../_base_/models/new_gates.py'

# Between the stages, as in the paper.
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='BAM'),
                stages=(True, True, True, False),
                position='after_stage',
            )
        ],
    )
)
