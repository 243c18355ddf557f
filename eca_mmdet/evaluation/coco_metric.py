"""Former name of :mod:`eca_mmdet.evaluation.metric`."""

from eca_mmdet.evaluation.metric import CocoTableMetric, MetricsFileHook, V1CocoMetric

__all__ = ['CocoTableMetric', 'MetricsFileHook', 'V1CocoMetric']
