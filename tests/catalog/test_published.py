"""Published numbers: as in the copies they were read from; marked where in none."""

import csv
import io
import json

import pytest

from eca_mmdet.catalog import configs as paths
from eca_mmdet.catalog.published import (
    AP_COLUMNS,
    MARK,
    Number,
    cells_of,
    published,
    published_rows,
)
from eca_mmdet.utils.errors import UserError
from tests.conftest import REPOSITORY


def test_rows_and_their_configs():
    rows = published_rows()
    assert len(rows) == 20 and len({one.row for one in rows}) == 20
    assert {one.config for one in rows} <= paths.shipped_configs().keys()
    for one in rows:
        family, depth, attention = one.row.split(':')
        assert one.config.startswith(family) and f'r{one.depth}_' in one.config
        assert depth == f'r{one.depth}'
        assert (attention == 'none') == (one.attention == 'none')
        assert bool(one.mask) == (one.detector == 'Mask R-CNN')


def test_every_number_is_that_of_the_reference():
    source = REPOSITORY.parent / 'shared' / 'reference' / 'published_tables.json'
    if not source.is_file():
        pytest.skip(f'the published tables are not here: {source}')
    reference = json.loads(source.read_text())
    rows = {(o.detector, o.depth, o.attention): o for o in published_rows()}
    checked = 0
    names = {v: k for k, v in SOURCES.items()}
    for table, task in (('detection', 'box'), ('instance_segmentation', 'mask')):
        for one in reference[table]:
            depth = int(one['backbone'].split('-')[1])
            row = rows[one['detector'], depth, one['attention']]
            for column in AP_COLUMNS:
                number = row.numbers()[task].get(column)
                assert (number and number.value) == one[column]
                if number is None:
                    continue
                copies = {
                    names[copy]
                    for copy, read in one['confirmed'].items()
                    if column in read
                }
                assert set(number.confirmed_by) == copies
                checked += 1
            assert (row.params_m.value, row.gflops.value) == (
                one['params_m'],
                one['gflops'],
            )
    assert checked == 6 * 28 - 3 * 4  # NL and GC have no S, M, L
    assert published()['imagenet']['rows'] == reference['imagenet_models']['rows']
    attention = published()['attention']
    for ours, theirs in (
        ('properties', 'attention_overhead'),
        ('imagenet', 'imagenet_attention_variants'),
    ):
        assert attention[ours]['rows'] == reference[theirs]['rows']


SOURCES = {
    'authors': "authors' README",
    'poster': "authors' CVPR poster",
    'sda': 'SDA-xNet README (independent reprint)',
    'article': 'ECA-Net article (Paperspace blog)',
}


def test_sources_are_known():
    assert published()['sources'].keys() == SOURCES.keys()
    for row in published_rows():
        for number in (row.params_m, row.gflops, *row.box.values(), *row.mask.values()):
            assert set(number.confirmed_by) <= SOURCES.keys()


def test_unconfirmed_numbers_carry_a_mark():
    assert Number(38.0, ('sda',)).shown(1) == '38.0'
    assert Number(38.26, ()).shown(1) == f'38.3 {MARK}'
    [row] = published_rows(['retinanet:r50:eca'])
    assert cells_of(row, 'box')[2:] == [
        *('37.3', '57.7', '39.6', f'21.9 {MARK}', f'41.3 {MARK}', f'48.9 {MARK}'),
    ]


def test_choosing_rows():
    assert [one.row for one in published_rows(['*:r101:eca'])] == [
        f'{family}:r101:eca' for family in ('faster', 'mask', 'retinanet')
    ]
    assert len(published_rows(detector='mask')) == 8
    assert len(published_rows(['faster:*', 'faster:r50:eca'])) == 6
    with pytest.raises(UserError, match="no published row is called 'faster:r34:eca'"):
        published_rows(['faster:r34:eca'])


def test_other_files(tmp_path):
    with pytest.raises(UserError) as error:
        published_rows(path=tmp_path / 'no.json')
    assert error.value.code == 'file-not-found'
    for content in ('[]', '{}', '{"detectors": []}', 'x'):
        (tmp_path / 'p.json').write_text(content)
        with pytest.raises(UserError, match='published numbers'):
            published_rows(path=tmp_path / 'p.json')


@pytest.mark.parametrize(
    'change',
    [
        {'cost': {}},
        {'detector': 'YOLO'},
        {'row': '../../x'},
        {'box': {}},
        {'box': {'AP': {'value': float('nan'), 'confirmed_by': []}}},
        {'box': {'AP': {'value': 'x', 'confirmed_by': []}}},
        {'box': {'AP': {'value': 1, 'confirmed_by': 'sda'}}},
        {'row': 'faster:r50:se'},  # there is one of this name
    ],
)
def test_rows_of_other_files_are_looked_at(tmp_path, change):
    content = published()
    content['detectors'][0] |= change
    path = tmp_path / 'p.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='p.json: '):
        published_rows(path=path)


def test_tables_command(command):
    code, out, _ = command('paper', 'tables', '--detector', 'retinanet')
    assert code == 0 and 'mask AP' not in out and f'35.6 {MARK}' in out
    assert 'sda: SDA-xNet' in out
    code, out, _ = command('paper', 'tables', 'mask:r50:eca', '--format', 'csv')
    box, mask = (next(csv.DictReader(io.StringIO(t))) for t in out.split('\n\n'))
    assert (box['AP'], mask['AP'], box['GFLOPs']) == ('39.0', '35.6', '275.69')
    code, out, _ = command('paper', 'tables', 'mask:r50:eca', '--format', 'json')
    [row] = json.loads(out)['rows']
    assert row['mask']['AP'] == {'value': 35.6, 'confirmed_by': ['article', 'authors']}
    code, out, err = command('paper', 'tables', 'mask:r34:eca')
    assert code == 2 and out == '' and 'no published row' in err
