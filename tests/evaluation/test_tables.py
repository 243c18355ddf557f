"""Tables of COCO's numbers."""

import csv
import io

import pytest

from eca_mmdet.evaluation.coco_eval import ClassResult, TaskResult, columns
from eca_mmdet.evaluation.tables import (
    FORMATS,
    ap_table,
    class_table,
    format_ap,
    heading,
    render,
    rows_of,
)

VALUES = (0.39, 0.6128, 0.42149, 0.0, 1.0, None, 0.1, 0.2, 0.3, 0.4, 0.5, None)
BOX = dict(zip(columns(), VALUES, strict=True))
MASK = dict.fromkeys(columns(), 0.5)


def test_columns_are_cocos():
    assert columns() == (
        *('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL'),
        *('AR1', 'AR10', 'AR100', 'ARS', 'ARM', 'ARL'),
    )
    assert columns((5, 300))[6:8] == ('AR5', 'AR300')


def test_rows_of_metrics_keep_full_precision_and_mark_empty_ranges():
    flat = {f'coco/bbox_{k}': -1.0 if v is None else v for k, v in BOX.items()}
    flat |= {'coco/bbox_mAP': 0.39, 'coco/bbox_mAP_50': 0.6, 'coco/cat_precision': 1.0}
    assert rows_of(flat) == {'box': BOX}
    plain = {key.removeprefix('coco/'): value for key, value in flat.items()}
    plain |= {f'segm_{k}': v for k, v in MASK.items()}
    assert rows_of(plain) == {'box': BOX, 'mask': MASK}
    assert rows_of({'accuracy': 1.0}) == {}


def test_text_table():
    assert ap_table({'box': BOX, 'mask': MASK}).splitlines() == [
        '        AP    AP50    AP75    APS    APM    APL    AR1    AR10    AR100    ARS'
        '    ARM    ARL',
        'box   39.0    61.3    42.1    0.0  100.0    n/a   10.0    20.0     30.0   40.0'
        '   50.0    n/a',
        'mask  50.0    50.0    50.0   50.0   50.0   50.0   50.0    50.0     50.0   50.0'
        '   50.0   50.0',
    ]
    assert ap_table({}) == ''


def test_markdown_escapes_bars():
    lines = render(['name', 'AP'], [['a|b', '1.0']], 'md').splitlines()
    assert [line.replace(' ', '') for line in lines] == [
        '|name|AP|',
        '|:-------|-----:|',
        r'|a\|b|1.0|',
    ]


def test_csv_reads_back():
    cells = [['a,b "c"', '1.0', 'n/a']]
    text = render(['', 'AP', 'APL'], cells, 'csv')
    assert list(csv.reader(io.StringIO(text))) == [['', 'AP', 'APL'], *cells]


def test_latex_escapes_names():
    text = render(['name', 'AP'], [['a_b & 50 %', '1.0']], 'latex')
    assert r'a\_b \& 50 \%' in text
    assert text.startswith(r'\begin{tabular}{lr}') and r'\toprule' in text


def test_names_that_look_like_numbers_stay_as_they_are():
    for style in FORMATS:
        assert '007' in render(['category', 'AP'], [['007', '1.0']], style)


def test_rounding():
    assert [format_ap(v) for v in (0.3905, 0.0004, 1.0, None)] == [
        *('39.1', '0.0', '100.0', 'n/a'),
    ]
    assert [format_ap(v, signed=True) for v in (0.011, -0.011, -0.0001, None)] == [
        *('+1.1', '-1.1', '+0.0', 'n/a'),
    ]


def test_heading_names_other_limits():
    assert heading() == heading((1, 10, 100)) == 'COCO AP and AR, 0-100'
    other = heading((1, 300))
    assert 'at most 300 detections' in other and '1, 300 instead of' in other


@pytest.mark.parametrize('style', FORMATS)
def test_class_table_has_every_number(style):
    row = ClassResult(17, 'cat', 4, BOX)
    text = class_table(TaskResult('bbox', (1, 10, 100), BOX, (row,), {}), style)
    [line] = [line for line in text.splitlines() if 'cat ' in line or 'cat,' in line]
    cells = line.replace('|', ' ').replace(',', ' ').replace('&', ' ').split()
    expected = ['cat', '17', '4', *(format_ap(v) for v in VALUES)]
    assert [c for c in cells if c != '\\\\'] == expected
