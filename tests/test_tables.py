"""AP tables from mmdet's metric names."""

from eca_mmdet.evaluation.tables import ap_rows, ap_table, format_ap

METRICS = {
    'coco/bbox_mAP': 0.39,
    'coco/bbox_mAP_50': 0.6128,
    'coco/bbox_mAP_75': 0.42149,
    'coco/bbox_mAP_s': 0.0,
    'coco/bbox_mAP_m': 1.0,
    'coco/bbox_mAP_l': -1.0,
}
MASKS = {key.replace('bbox', 'segm'): 0.5 for key in METRICS}


def test_rows_keep_full_precision_and_mark_empty_ranges():
    rows = ap_rows(METRICS)
    assert rows == {
        'box': {
            'AP': 0.39,
            'AP50': 0.6128,
            'AP75': 0.42149,
            'APS': 0.0,
            'APM': 1.0,
            'APL': None,
        }
    }
    assert list(ap_rows(METRICS | MASKS)) == ['box', 'mask']


def test_prefix_is_optional():
    plain = {key.removeprefix('coco/'): value for key, value in METRICS.items()}
    assert ap_rows(plain) == ap_rows(METRICS)


def test_text_table():
    assert ap_table(METRICS | MASKS).splitlines() == [
        '          AP   AP50   AP75    APS    APM    APL',
        'box     39.0   61.3   42.1    0.0  100.0    n/a',
        'mask    50.0   50.0   50.0   50.0   50.0   50.0',
    ]


def test_markdown_table():
    assert ap_table(METRICS, markdown=True).splitlines() == [
        '|  | AP | AP50 | AP75 | APS | APM | APL |',
        '| --- | --: | --: | --: | --: | --: | --: |',
        '| box | 39.0 | 61.3 | 42.1 | 0.0 | 100.0 | n/a |',
    ]


def test_nothing_evaluated():
    assert ap_table({}) == ''
    assert ap_table({'accuracy': 1.0}) == ''


def test_format_rounds_to_one_decimal():
    assert [format_ap(v) for v in (0.3905, 0.0004, None)] == ['39.1', '0.0', 'n/a']
