"""``metrics.json``: enough to know later what a number was."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import eca_mmdet
from eca_mmdet.evaluation.coco_eval import TaskResult

_PACKAGES = (
    'hotcoco',
    'pycocotools',
    'numpy',
    'torch',
    'torchvision',
    'mmdet',
    'onedl-mmdetection',
    'mmcv',
    'mmcv-lite',
    'onedl-mmcv',
    'mmengine',
    'onedl-mmengine',
)


def make_record(
    results: Sequence[TaskResult],
    annotations: Mapping[str, str],
    backend: str,
    **more: Any,
) -> dict[str, Any]:
    """Return the record of one evaluation.

    Args:
        results: the numbers; AP and AR are 0-1 and of full precision, null where no
            object is counted.
        annotations: file and sha256 of the annotation file, as it was read.
        backend: what computed them.
        more: further entries, such as results or checkpoint.
    """
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'unit': 'AP and AR are 0-1',
        'results': {one.task: as_json(one) for one in results},
        'annotations': dict(annotations),
        'backend': backend,
        'versions': versions(),
        **more,
    }


def as_json(result: TaskResult) -> dict[str, Any]:
    """Return the numbers of one task."""
    return {
        'metrics': result.metrics,
        'max_dets': list(result.max_dets),
        'counts': result.counts,
        'classes': [
            {'id': c.id, 'name': c.name, 'objects': c.objects, 'metrics': c.metrics}
            for c in result.classes
        ],
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and those that the number rests on.

    They are read from the installed metadata; nothing is imported.
    """
    found = {'python': platform.python_version(), 'eca-mmdet': eca_mmdet.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
