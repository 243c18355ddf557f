"""The earlier name of :mod:`eca_mmdet.evaluation.metric`."""

from eca_mmdet.evaluation.metric import CocoTableMetric, V1CocoMetric

__all__ = ['CocoTableMetric', 'V1CocoMetric']
