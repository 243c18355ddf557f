_base_ = '../_base_/models/new_gates.py'

# One block a stage. (The authors' code leaves the places to the user.)
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='GSoP'),
                position='after_stage',
            )
        ],
    )
)
