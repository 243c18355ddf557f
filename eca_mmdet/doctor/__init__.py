"""Diagnosis and repair of an installation.

torch, mmcv and mmdet are imported in subprocesses only
(:mod:`eca_mmdet.doctor.environment`), because a broken one can crash, abort or hang.
"""
