"""The functions of ``import eca_mmdet``: their examples run, and none loads mmdet.

A function that is added to ``eca_mmdet._FUNCTIONS`` needs an example in its docstring.
Its files are those of INPUTS that the docstring names.
"""

import ast
import doctest
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import eca_mmdet
from eca_mmdet.catalog.mechanisms import LAYER_MODULES
from tests.conftest import PYTHON, REPOSITORY
from tests.references.networks import AuthorsResNet, randomise, save_as_the_authors
from tests.support import detectors
from tests.support.own_data import write_data

FUNCTIONS = [name for name in eca_mmdet._FUNCTIONS if name.islower()]


def write_train(folder):
    write_data(folder, 'train.json', ('cat', 'dog'))


def write_val(folder):
    return write_data(folder, 'val.json', ('cat', 'dog'), first=10)


def write_detections(folder):
    """Each object of the validation file, found exactly."""
    content = json.loads(write_val(folder).read_text())
    keys = ('image_id', 'category_id', 'bbox')
    found = [
        {key: one[key] for key in keys} | {'score': 0.9}
        for one in content['annotations']
    ]
    (folder / 'detections.json').write_text(json.dumps(found))


def write_checkpoint(folder):
    model = randomise(AuthorsResNet(18, (3, 5, 7, 7)))
    save_as_the_authors(model, folder / 'eca_resnet18.pth')


INPUTS = {
    'train.json': write_train,
    'val.json': write_val,
    'detections.json': write_detections,
    'eca_resnet18.pth': write_checkpoint,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('name', FUNCTIONS)
def test_the_example_runs(name, folder, mmdet_ready):
    function = getattr(eca_mmdet, name)
    for file, write_input in INPUTS.items():
        if f"'{file}'" in function.__doc__:
            write_input(folder)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert example.examples
    printed = []
    doctest.DocTestRunner(verbose=False).run(example, out=printed.append)
    assert not printed, ''.join(printed)


def test_all_names_are_shown():
    assert set(eca_mmdet.__all__) <= set(dir(eca_mmdet))
    for name in eca_mmdet._FUNCTIONS:
        assert getattr(eca_mmdet, name).__name__ == name


def test_type_checkers_see_all_names():
    """``__getattr__`` makes every name that is not imported for them Any."""
    tree = ast.parse(Path(eca_mmdet.__file__).read_text('utf-8'))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    pairs = [(name, node.module) for node in block.body for name in node.names]
    assert {name.asname: module for name, module in pairs if name.asname} == {
        name: module
        for name, module in {**eca_mmdet._EXPORTS, **eca_mmdet._FUNCTIONS}.items()
        if name not in LAYER_MODULES
    }
    layers = {module.rpartition('.')[2] for name, module in pairs if name.name == '*'}
    # A new layer in a module of its own is Any until it is listed.
    assert layers <= set(LAYER_MODULES.values())
    assert {'cbam', 'eca', 'fcanet', 'gather_excite', 'squeeze_excite'} <= layers


def test_files_are_looked_at_without_mmdet(folder):
    for write_input in INPUTS.values():
        write_input(folder)
    program = """
import sys
import eca_mmdet
import numpy as np
empty = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
dir(eca_mmdet)
eca_mmdet.evaluate('val.json', 'detections.json')
eca_mmdet.evaluate('val.json', {11: eca_mmdet.Prediction(*empty)})
eca_mmdet.check_annotations('val.json', images='images')
eca_mmdet.split_annotations('val.json', 0.5)
try:
    eca_mmdet.check_annotations('no.json')
except eca_mmdet.UserError as error:
    assert error.exit_code == 2
assert 'torch' not in sys.modules
eca_mmdet.inspect_weights('eca_resnet18.pth')
eca_mmdet.convert_weights('eca_resnet18.pth', 'new.pth')
print([m for m in sys.modules if m.split('.')[0] in ('mmdet', 'mmcv', 'mmengine')])
"""
    done = subprocess.run([PYTHON, '-c', program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('[]\n', '')


def test_evaluation_writes_nothing_unless_asked(folder):
    write_detections(folder)
    before = sorted(folder.iterdir())
    report = eca_mmdet.evaluate('val.json', ['detections.json'], analysis=True)
    assert sorted(folder.iterdir()) == before
    assert report.folder is None and not report.drawings
    assert report.record['analysis'][0]['bbox']['errors']
    report = eca_mmdet.evaluate('val.json', 'detections.json', out=folder / 'run')
    written = json.loads((folder / 'run' / 'metrics.json').read_text())
    assert written == report.record
    with pytest.raises(eca_mmdet.UserError) as error:
        eca_mmdet.evaluate('val.json', 'detections.json', out='run')
    assert error.value.code == 'output-exists'


@pytest.mark.parametrize(
    ('name', 'wrong'),
    [
        ('evaluate', dict(types='keypoints')),
        ('evaluate', dict(types=['bbox', 'x'])),
        ('evaluate', dict(bootstrap=-1)),
        ('evaluate', dict(backend='x')),
        ('evaluate', dict(max_dets=100)),
        ('evaluate', dict(score_thr=1.5)),
        ('complexity', dict(convention='x')),
        ('train', dict(launcher='x')),
    ],
)
def test_wrong_arguments_have_a_code(folder, name, wrong):
    write_detections(folder)
    config = 'retinanet_eca-r50_fpn_4xb2-1x_coco'
    first = ('val.json', 'detections.json') if name == 'evaluate' else (config,)
    with pytest.raises(eca_mmdet.UserError) as error:
        getattr(eca_mmdet, name)(*first, **wrong)
    assert error.value.code == 'option-invalid'


def test_one_name_is_a_name(folder):
    write_detections(folder)
    report = eca_mmdet.evaluate('val.json', 'detections.json', 'bbox', 'dog')
    (result,) = report.files[0].results.values()
    assert [each.name for each in result.classes] == ['dog']
    with pytest.raises(eca_mmdet.UserError) as error:
        report.table('html')
    assert error.value.code == 'option-invalid'
    assert len(repr(report)) < 300  # no arrays in a notebook's cell
    assert len(repr(eca_mmdet.check_annotations('val.json'))) < 300


def exact_predictions(content, root='images'):
    """A prediction of each image, equal to its objects."""
    found = []
    for image in content['images']:
        mine = [a for a in content['annotations'] if a['image_id'] == image['id']]
        boxes = np.array([a['bbox'] for a in mine], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([a['category_id'] - 1 for a in mine])
        path = f'{root}/{image["file_name"]}'
        scores = np.linspace(0.9, 0.5, len(mine))
        found.append(
            eca_mmdet.Prediction(
                boxes, scores, labels, classes=('cat', 'dog'), path=path
            )
        )
    return found


def metrics(report):
    return [file.results['bbox'].metrics for file in report.files]


def test_images_are_found_by_id_name_and_path(folder):
    content = json.loads(write_val(folder).read_text())
    found = exact_predictions(content)
    found[1:] = [one[:1] for one in found[1:]]  # not all that there is
    ids, names = ([i[key] for i in content['images']] for key in ('id', 'file_name'))
    expected = metrics(eca_mmdet.evaluate(content, dict(zip(ids, found, strict=True))))
    assert 0.4 < expected[0]['AR100'] < 0.6
    paths = [Path(folder, 'images', name) for name in names]
    numpy_ids = dict(zip(np.array(ids), found, strict=True))
    for given in (
        found,
        tuple(found),
        iter(found),
        dict(zip(names, found, strict=True)),
        dict(zip(paths, found, strict=True)),
        numpy_ids,
    ):
        report = eca_mmdet.evaluate(content, given)
        assert metrics(report) == expected and not report.notes
    report = eca_mmdet.evaluate(content, [found, numpy_ids], bootstrap=0)
    assert metrics(report) == expected * 2
    assert [file.label for file in report.files] == ['1: results', '2: results']
    for given, count in (([found[0]], 3), (found[0], 3), ({}, 4), ([], 4)):
        report = eca_mmdet.evaluate(content, given)
        assert len(report.notes) == 1 and f'{count} of 4 images' in report.notes[0]
        assert (report.files[0].results['bbox'].metrics['AP'] > 0) == (count == 3)


def test_what_is_no_result(folder):
    content = json.loads(write_val(folder).read_text())
    one, *others = exact_predictions(content)
    cow = replace(one, classes=('cow', 'dog'))
    assert metrics(eca_mmdet.evaluate(content, [cow[cow.labels == 1]]))
    entry = one.to_coco(11)[0]
    for given, code in (
        ([one, one], 'not-results'),
        ({77: one}, 'not-results'),
        ({'no.jpg': one}, 'not-results'),
        ([replace(one, path=None)], 'not-results'),
        ([cow], 'not-results'),
        ({11: 5}, 'not-results'),
        ([{'a': 1}], 'not-results'),
        (content, 'not-results'),
        ([entry | {'bbox': {1, 2}}], 'not-json'),
        ([entry | {'bbox': [1, 2]}], 'not-results'),
        ([entry | {'score': float('nan')}], 'not-results'),
        ({11: one, 12: 'b'}, 'not-json'),
        ([one, 'no.json'], 'file-not-found'),
    ):
        with pytest.raises(eca_mmdet.UserError) as error:
            eca_mmdet.evaluate(content, given, bootstrap=0)
        assert error.value.code == code, given
    for annotations, code in (
        ({}, 'not-annotations'),
        ([entry], 'not-annotations'),
        (content | {'categories': []}, 'not-annotations'),
        (content | {'images': {1}}, 'not-json'),
    ):
        with pytest.raises(eca_mmdet.UserError) as error:
            eca_mmdet.evaluate(annotations, [entry])
        assert error.value.code == code, annotations


def test_data_frames_have_the_numbers_of_the_tables(folder, monkeypatch):
    pandas = pytest.importorskip('pandas')
    content = json.loads(write_val(folder).read_text())
    found = exact_predictions(content)
    few = [one[1:] for one in found]
    report = eca_mmdet.evaluate(content, [found, few], bootstrap=20)
    frame = report.to_dataframe(classwise=True)
    rounded = frame.round(1).where(frame.notna(), np.nan)
    table = pandas.read_csv(io.StringIO(report.table('csv', classwise=True)))
    pandas.testing.assert_frame_equal(rounded, table, check_dtype=False)
    row = frame[(frame['class'] == 'dog') & (frame['results'] == '2: results')].iloc[0]
    (dog,) = (c for c in report.files[1].results['bbox'].classes if c.name == 'dog')
    assert row['AP'] == 100 * dog.metrics['AP'] != round(row['AP'], 1)
    assert np.isnan(row['APL']) and dog.metrics['APL'] is None
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(eca_mmdet.UserError) as error:
        report.to_dataframe()
    assert error.value.code == 'package-missing'


def test_blocks_of_the_python_page_run(folder, shapes, mmdet_ready, capsys):
    """docs/python.md, each block as it stands there, except for the epochs."""
    text = (REPOSITORY / 'docs' / 'python.md').read_text()
    blocks = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count('```') // 2
    (folder / 'run').mkdir()
    checkpoint = detectors.save(folder / 'run' / 'epoch_12.pth', 'mask', shapes)
    (folder / 'run' / 'last_checkpoint').write_text(str(checkpoint))
    write_data(folder, 'train.json', detectors.CLASSES)
    write_data(folder, 'val.json', detectors.CLASSES, first=10)
    content = json.loads((folder / 'val.json').read_text())
    keys = ('image_id', 'category_id', 'bbox')
    exact = [{key: a[key] for key in keys} for a in content['annotations']]
    (folder / 'detections.json').write_text(
        json.dumps([e | {'score': 1.0} for e in exact])
    )
    write_checkpoint(folder)
    street = folder / 'images' / content['images'][0]['file_name']
    cv2.imwrite(str(folder / 'street.jpg'), cv2.imread(str(street)))
    known = {}
    for block in blocks:
        exec(
            compile(block.replace('epochs=12', 'epochs=1'), 'python.md', 'exec'), known
        )
    same, first, second = (known[name] for name in ('same', 'first', 'second'))
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.above(0.3).masks, same.masks)
    sides = np.diff(known['by_size'].boxes.reshape(-1, 2, 2), axis=1)[:, 0]
    assert len(sides) > len(same) > 3 and (np.diff(sides.prod(1)) >= 0).all()
    assert known['report'].files[0].results['bbox'].metrics['AP50'] == 1
    assert known['classes']['class'].unique().tolist() == list(detectors.CLASSES)
    assert known['trained'].checkpoint.name == 'epoch_1.pth'
    assert known['exported'].checks[-1].passes and known['page'].path.is_file()
    assert 'file-not-found' in capsys.readouterr().out
