"""Look at an installation, say what is wrong with it, and mend what pip can.

Nothing here imports torch, mmcv or mmdet: a broken one can crash, hang or abort. They
are imported in processes of their own (:mod:`eca_mmdet.doctor.probe`).

A check is a function from a :class:`~eca_mmdet.doctor.environment.Scene` to findings.
"""
