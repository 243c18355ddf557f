"""Rules for annotation files: one object per kind of fault.

To add a fault, add its message to ``MESSAGES`` in ``rule.py``, and to the list of one of
the other modules a :class:`~eca_mmdet.datasets.rules.rule.Rule`: how it is found and fixed.
"""
