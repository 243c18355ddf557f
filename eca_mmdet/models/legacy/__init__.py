"""MMDetection v1's behaviours, for detectors that were trained with it.

Each component replaces one of mmdet 3.x's in a test-time config (``configs/legacy``);
none changes mmdet. Source: MMDetection v1.1.0 (commit 3839478), run beside 3.x.
"""

from eca_mmdet.models.legacy.boxes import V1BoxCoder, V1Resize
from eca_mmdet.models.legacy.heads import (
    V1BBoxHead,
    V1CascadeRoIHead,
    V1MaskHead,
    V1RetinaHead,
    V1RoIExtractor,
    V1RPNHead,
    V1StandardRoIHead,
)

__all__ = [
    'V1BBoxHead',
    'V1BoxCoder',
    'V1CascadeRoIHead',
    'V1MaskHead',
    'V1RPNHead',
    'V1Resize',
    'V1RetinaHead',
    'V1RoIExtractor',
    'V1StandardRoIHead',
]
