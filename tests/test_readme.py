"""README and metafiles agree, and the reported numbers never stand as measured."""

import importlib
import json
import re

import pytest
import yaml

from eca_mmdet.catalog import configs as paths
from eca_mmdet.catalog.mechanisms import KEYS
from eca_mmdet.checkpoints.download import SOURCES
from eca_mmdet.cli import GROUPS, build_parser
from tests.conftest import REPOSITORY

WEIGHTS = (REPOSITORY / 'docs' / 'weights.md').read_text()
LEGACY = (REPOSITORY / 'docs' / 'legacy.md').read_text()
README = (REPOSITORY / 'README.md').read_text()
ATTENTION = {'none': '', 'SE': 'se-', 'ECA': 'eca-', '1 NL': 'nl-', 'GC': 'gc-'}


def table_rows(text=README):
    lines = text.splitlines()
    header = next(i for i, line in enumerate(lines) if 'reported |' in line)
    for line in lines[header + 2 :]:
        if not line.startswith('|'):
            return
        yield [cell.strip() for cell in line.strip('|').split('|')]


def test_table_repeats_the_metafiles_and_measures_nothing():
    models = {
        model['Name']: model
        for file in paths.config_root().glob('*/metafile.yml')
        for model in yaml.safe_load(file.read_text())['Models']
    }
    rows = list(table_rows())
    assert len(rows) == len(models) == 20
    for detector, backbone, attention, params, flops, box, mask, measured in rows:
        family = detector.lower().replace(' r-cnn', '-rcnn')
        depth = backbone.split('-')[1]
        model = models[f'{family}_{ATTENTION[attention]}r{depth}_fpn_4xb2-1x_coco']
        metrics = {k: v for r in model['Results'] for k, v in r['Metrics'].items()}
        unconfirmed = model['Metadata']['Evidence'] == 'reported, unconfirmed'
        for cell, name in ((params, 'Trainable Parameters (M)'), (flops, 'FLOPs (G)')):
            assert float(cell.removesuffix(' †')) == model['Metadata'][name]
        cost_known = not detector.startswith('Mask') or depth == '101'
        cost_known |= attention == 'ECA'
        retina_known = (depth, attention) == ('50', 'ECA') or depth == '101'
        assert ('†' in params) == (
            not (retina_known if detector == 'RetinaNet' else cost_known)
        )
        assert box == f'{metrics["box AP"]}' + (' †' if unconfirmed else '')
        assert mask == str(metrics.get('mask AP', ''))
        assert measured == ''


@pytest.fixture
def generator(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')
    return importlib.import_module('update_readme')


def test_the_table_is_what_the_generator_writes(generator, tmp_path, capsys):
    assert generator.main(['--check']) == 0
    readme = tmp_path / 'README.md'
    readme.write_text(README.replace('| 39.0 | 35.6 |', '| 39.1 | 35.6 |'))
    assert generator.main(['--check', '--readme', str(readme)]) == 1
    assert '+| Mask R-CNN | ResNet-50 | ECA | 44.18 | 275.69 | 39.0 |' in (
        capsys.readouterr().out
    )
    assert generator.main(['--readme', str(readme)]) == 0
    assert readme.read_text() == README


def test_every_family_of_configs_is_checked(generator, tmp_path, capsys):
    readme = REPOSITORY / 'README.md'
    documents = generator.documents(readme, '')
    for folder in paths.config_root().glob('[!_]*/'):
        assert all(
            f'`{file.stem}`' in documents[folder / 'README.md']
            for file in folder.glob('*.py')
        )
    assert sum(file.name == 'metafile.yml' for file in documents) == 3
    assert f'of {len(KEYS)} attention mechanisms' in documents[readme]
    stale = tmp_path / 'metafile.yml'
    stale.write_text('AP: 38.0\n')
    assert generator.update(stale, 'AP: 39.0\n', check=True)
    assert '-AP: 38.0\n+AP: 39.0' in capsys.readouterr().out
    assert stale.read_text() == 'AP: 38.0\n'
    assert generator.update(stale, 'AP: 39.0\n', check=False)
    assert not generator.update(stale, 'AP: 39.0\n', check=True)


def test_records_fill_the_measured_column(generator, tmp_path):
    def record(name, row, departure='', options=(), verdict='within', **ap):
        measured = {task: {'measured': {'AP': value}} for task, value in ap.items()}
        rows = [{'row': row, 'measured': measured, 'verdict': verdict}]
        rows += [{'row': 'x', 'measured': {}}]
        coco = {'departure': departure}
        content = {'coco': coco, 'rows': rows, 'options': options}
        (tmp_path / 'records' / name).write_text(json.dumps(content))

    (tmp_path / 'records').mkdir()
    record('a.json', 'mask:r50:eca', mask=35.61, box=38.96)
    record('b.json', 'faster:r50:none', verdict='outside', box=36.35)
    readme = tmp_path / 'README.md'
    readme.write_text(README)
    words = ['--readme', str(readme), '--records', str(tmp_path / 'records')]
    assert generator.main(words) == 0
    rows = {tuple(row[:3]): row[7] for row in table_rows(readme.read_text())}
    assert rows['Mask R-CNN', 'ResNet-50', 'ECA'] == '39.0 / 35.6'
    assert rows['Faster R-CNN', 'ResNet-50', 'none'] == '36.4 (outside)'
    assert sum(bool(cell) for cell in rows.values()) == 2
    assert '2 of 20 rows are measured' in readme.read_text()
    record('c.json', 'mask:r50:se', 'a subset: 3 of 5000 images', box=1.0)
    with pytest.raises(SystemExit, match='c.json was measured on a subset'):
        generator.main(words)
    record('c.json', 'mask:r50:se', options=['a=1'], box=1.0)
    with pytest.raises(SystemExit, match='c.json was measured on a=1'):
        generator.main(words)
    record('c.json', 'mask:r34:se', box=1.0)
    with pytest.raises(SystemExit, match='rows that are not in the tables'):
        generator.main(words)
    (tmp_path / 'records' / 'c.json').unlink()
    readme.write_text(README.replace('<!-- end of table -->', ''))
    with pytest.raises(SystemExit, match='must have one'):
        generator.main(words)
    assert len(readme.read_text()) > 10_000


def test_every_weight_file_is_documented():
    for name in SOURCES:
        assert f'`{name}`' in WEIGHTS, name


def test_every_public_eca_weight_is_documented():
    source = REPOSITORY.parent / 'shared' / 'reference' / 'pretrained_weights.json'
    if not source.is_file():
        pytest.skip(f'the list of public weights is not here: {source}')
    listed = json.loads(source.read_text())
    rows = [line for line in WEIGHTS.splitlines() if line.startswith('| `')]
    for family in listed.values():
        for model in family['models']:
            (row,) = [
                r for r in rows if f'{model["name"]}`' in r.replace('.pth.tar', '')
            ]
            assert model.get('drive_id', '') in row
            if isinstance(model.get('kernel_sizes'), list):
                assert ' '.join(map(str, model['kernel_sizes'])) in row
    assert len(listed) == 3


def test_released_detectors_repeat_the_reported_numbers():
    source = REPOSITORY.parent / 'shared' / 'reference' / 'pretrained_weights.json'
    if not source.is_file():
        pytest.skip(f'the list of public weights is not here: {source}')
    models = json.loads(source.read_text())['authors_coco_detectors']['models']
    for model in models:
        (row,) = [
            r for r in LEGACY.splitlines() if r.startswith(f'| `{model["name"]}`')
        ]
        cells = [cell.strip() for cell in row.strip('|').split('|')]
        for cell, numbers in zip(
            cells[2:4], (model['box'], model['mask']), strict=True
        ):
            assert cell == (', '.join(map(str, numbers)) if numbers else '')
        assert cells[4] == ''  # nothing is measured
    assert len(models) == 6


def test_configs_named_in_the_readme_exist():
    text = README + WEIGHTS + LEGACY
    names = set(re.findall(r'[a-z-]+_[a-z0-9-]+_fpn_[a-z0-9-]+_coco', text))
    assert names
    assert names <= paths.shipped_configs().keys()


def test_options_in_the_documents_exist(capsys):
    """Each --option of an eca-mmdet line is one of that command."""
    docs = [README, *(f.read_text() for f in (REPOSITORY / 'docs').glob('*.md'))]
    names = '|'.join(sorted((n for g in GROUPS.values() for n in g), reverse=True))
    lines = re.findall(rf'^eca-mmdet ({names})\b(.*)', '\n'.join(docs), re.MULTILINE)
    assert {'train', 'test', 'eval', 'data check', 'demo'} <= {
        name for name, _ in lines
    }
    for name, rest in lines:
        with pytest.raises(SystemExit):
            build_parser().parse_args([*name.split(), '--help'])
        known = capsys.readouterr().out
        for option in re.findall(r'--[\w-]+', rest):
            assert option in known or name == 'weights', (name, option)
