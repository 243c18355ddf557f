"""Diagnosis and repair of an installation.

torch, mmcv and mmdet are imported in subprocesses only (:mod:`eca_mmdet.doctor.probe`),
because a broken one can crash, abort or hang.

To add a fault, write one rule in :mod:`eca_mmdet.doctor.software` (a package) or one
check in :mod:`eca_mmdet.doctor.machine` (the machine) and add it to the tuple there.
"""
