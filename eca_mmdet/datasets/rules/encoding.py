"""The encoding of an annotation file."""

from __future__ import annotations

from eca_mmdet.datasets.rules.rule import Fix, Phase, Rule

BYTE_ORDER_MARK: Rule[bytes] = Rule(
    code='byte-order-mark',
    severity='error',
    message='the file is not plain UTF-8 (a byte-order mark or UTF-16), which '
    'pycocotools does not read',
    find=lambda head: [] if _is_plain(head) else ['the first bytes'],
    # Every file that this package writes is.
    fix=Fix('written as UTF-8', Phase.ENTRIES, lambda repair: None),
)


def _is_plain(head: bytes) -> bool:
    """Tell bytes that pycocotools reads; the standard reads UTF-16 too."""
    marks = (b'\xef\xbb\xbf', b'\xff\xfe', b'\xfe\xff')
    return not head.startswith(marks) and b'\0' not in head[:4]
