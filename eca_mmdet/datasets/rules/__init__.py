"""Rules for annotation files: one object per kind of fault.

A new fault takes a message in ``rule.py``, and in the list of another of these modules
a :class:`~eca_mmdet.datasets.rules.rule.Rule`: how it is found, how it is repaired.
"""
