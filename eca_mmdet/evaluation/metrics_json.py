"""Records for ``metrics.json``: numbers and what is needed to interpret them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    """Return the record of one evaluation, with further entries.

    AP and AR are 0-1 and of full precision, null where no object is counted.
    """
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'unit': 'AP and AR are 0-1',
        'results': {result.task: as_json(result) for result in results},
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
        'classes': [asdict(each) for each in result.classes],
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and its dependencies.

    They are read from the installed metadata; nothing is imported.
    """
    found = {'python': platform.python_version(), 'eca-mmdet': eca_mmdet.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
