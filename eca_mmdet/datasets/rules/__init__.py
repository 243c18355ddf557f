"""Rules for annotation files: one object per kind of fault.

To add a fault, add a :class:`~eca_mmdet.datasets.rules.rule.Rule` to the list of one of
these modules: what is wrong, how it is found, how it is repaired.
"""
