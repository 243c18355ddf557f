"""`eca-mmdet export openvino`: files that do what mmdet does, run by OpenVINO."""

import contextlib
import functools
import importlib
import io
import os
import warnings
import xml.etree.ElementTree

import numpy as np
import pytest
import torch

from eca_mmdet import cli
from eca_mmdet.export.runtime import parse_metadata
from eca_mmdet.export.writer import convert_to_openvino, make_part, write_graph
from tests.support import exporting
from tests.support.exporting import assert_same_objects, batch
from tests.tolerances import assert_near

KINDS = ('faster', 'mask', 'retinanet')


@functools.cache
def opened(path):
    import openvino

    settings = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    return openvino.Core().compile_model(str(path), 'CPU', settings)


def run(path, **arrays):
    """Return the outputs of a file by name."""
    compiled = opened(path)
    found = compiled({name: np.asarray(value) for name, value in arrays.items()})
    return {one.get_any_name(): found[one] for one in compiled.outputs}


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture(scope='module')
def trained(mmdet_ready, shapes, tmp_path_factory):
    """For each kind (config, checkpoint, detector, its XML, stdout, stderr, noted)."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            cfg, model = exporting.random_detector(kind, shapes)
            paths = exporting.save(folder, cfg, model)
            out = folder / 'whole.xml'
            words = map(str, ('export', 'openvino', *paths, out))
            with (
                warnings.catch_warnings(record=True) as noted,
                contextlib.redirect_stdout(io.StringIO()) as told,
                contextlib.redirect_stderr(io.StringIO()) as err,
            ):
                warnings.simplefilter('always')
                assert cli.main(list(words)) == 0
            noted = [str(one.message) for one in noted]
            made[kind] = (*paths, model, out, told.getvalue(), err.getvalue(), noted)
        return made[kind]

    return get


@pytest.fixture
def export(command, trained, tmp_path):
    """Run the command with the small detector, to a.xml."""
    config, checkpoint, *_ = trained('faster')

    def call(*words, part='backbone'):
        out = tmp_path / 'a.xml'
        words = (*words, '--part', part)
        return command('export', 'openvino', config, checkpoint, out, *words)

    return call


@pytest.mark.sweep
@pytest.mark.parametrize('kind', KINDS)
def test_objects_are_those_of_mmdet_at_any_size_and_batch(kind, trained, shapes):
    _, _, model, out, *_ = trained(kind)
    for sizes in ([(75, 131)], [(160, 64), (96, 101)], [(33, 40)] * 3):
        images, shape, samples = batch(model, shapes, sizes)
        found = run(out, images=images, sizes=shape)
        assert_same_objects(found, model, images, samples)


@pytest.mark.slow
def test_what_is_printed_and_what_the_xml_says(trained):
    config, checkpoint, _, out, told, err, noted = trained('mask')
    assert err == '' and not any('openvino' in one.lower() for one in noted)
    assert names(out.parent) == ['mine.pth', 'mine.py', 'whole.bin', 'whole.xml']
    size = sum(out.with_suffix(one).stat().st_size for one in ('.xml', '.bin'))
    lines = told.split('\n')
    assert lines[:7] == [
        f'MaskRCNN, {size / 2**20:.1f} MB',
        '  takes images     float  batch x 3 x height x width',
        '  takes sizes      float  batch x 2',
        '  gives boxes      float  batch x 30 x 4',
        '  gives scores     float  batch x 30',
        '  gives labels     int64  batch x 30',
        '  gives masks      float  batch x 30 x 28 x 28',
    ]
    assert lines[-2] == f'Written: {out}, {out.with_suffix(".bin")}.'
    rows = [line.split() for line in lines if ' of ' in line and ' x ' in line]
    assert len(rows) == 3 and all(int(row[5]) > 0 and row[6] == '0' for row in rows)
    entry = xml.etree.ElementTree.parse(out).find('rt_info/eca_mmdet')
    metadata = parse_metadata(entry.get('value'), str(out))  # as an ONNX file's
    assert metadata['classes'] == ['circle', 'square', 'triangle']
    assert (metadata['config'], metadata['checkpoint']) == (
        config.name,
        checkpoint.name,
    )
    assert out.read_text().count('circle') == 1


def test_nothing_is_sent(trained):
    """Openvino took its own stand-in for its telemetry."""
    trained('faster')
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'


@pytest.mark.sweep
def test_parts_together_are_the_whole(trained, command, shapes, tmp_path):
    config, checkpoint, model, whole, *_ = trained('faster')
    for part, check in (('backbone', '--no-check'), ('heads', '--check')):
        words = (config, checkpoint, tmp_path / f'{part}.xml', '--part', part, check)
        assert command('export', 'openvino', *words)[0] == 0
    for sizes in ([(75, 131)], [(64, 70), (90, 40)]):
        images, shape, samples = batch(model, shapes, sizes)
        features = run(tmp_path / 'backbone.xml', images=images)
        with torch.no_grad():
            wanted = model.backbone(images)
        assert list(features) == [f'feature_{index}' for index in range(4)]
        for one, other in zip(features.values(), wanted, strict=True):
            assert_near(one, other, 1e-5)
        found = run(tmp_path / 'heads.xml', **features, sizes=shape)
        assert found.keys() == run(whole, images=images, sizes=shape).keys()
        assert_same_objects(found, model, images, samples)


@pytest.mark.slow
def test_one_size(trained, command, shapes, tmp_path):
    config, checkpoint, model, *_ = trained('retinanet')
    out = tmp_path / 'fixed.xml'
    words = (config, checkpoint, out, '--size', '96', '128', '--no-check')
    assert command('export', 'openvino', *words)[0] == 0
    images, shape, samples = batch(model, shapes, [(80, 101), (96, 64)])
    images = torch.nn.functional.pad(images, (0, 128 - images.shape[3]))
    found = run(out, images=images, sizes=shape)
    assert_same_objects(found, model, images, samples)
    with pytest.raises(RuntimeError, match='are incompatible'):
        run(out, images=np.zeros((1, 3, 64, 64), np.float32), sizes=shape[:1])


@pytest.mark.slow
def test_as_many_classes_as_lvis_has(mmdet_ready, shapes, tmp_path):
    from mmdet.registry import MODELS

    cfg, _ = exporting.random_detector('faster', shapes)
    cfg.model.roi_head.bbox_head.num_classes = 1203
    cfg.model.test_cfg.rpn.max_per_img = 20
    cfg.model.test_cfg.rcnn.update(max_per_img=8, score_thr=1e-4)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    model.train(False)
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.1)
    paths = [tmp_path / 'a.xml', tmp_path / 'a.bin']
    metadata = {'eca_mmdet': '0', 'max_per_image': 8}
    part = make_part(model, 'all')
    write_graph(tmp_path / 'a.onnx', part, metadata)
    convert_to_openvino(tmp_path / 'a.onnx', paths, metadata)
    images, shape, samples = batch(model, shapes, [(96, 96)])
    found = run(paths[0], images=images, sizes=shape)
    assert_same_objects(found, model, images, samples, least=8)


@pytest.mark.sweep(fast=2)
def test_a_wrong_file_fails_and_nothing_is_lost(export, monkeypatch, tmp_path):
    """Weights rounded to half precision, which is what OpenVINO does by itself."""
    import openvino

    right = openvino.save_model
    monkeypatch.setattr(
        openvino, 'save_model', lambda graph, path, **_: right(graph, path)
    )
    (tmp_path / 'a.xml').write_text('mine')
    (tmp_path / 'a.failed.bin').write_text('an earlier one')
    code, out, err = export('--force')
    assert code == 1, out
    kept = [tmp_path / f'a.failed-2.{one}' for one in ('xml', 'bin')]
    assert f'{kept[0]}, {kept[1]}; {tmp_path / "a.xml"} is as it was' in err
    assert (tmp_path / 'a.xml').read_text() == 'mine'
    assert names(tmp_path) == sorted(
        ['a.failed.bin', 'a.xml', *(one.name for one in kept)]
    )
    assert len(run(kept[0], images=np.zeros((1, 3, 64, 64), np.float32))) == 4


@pytest.mark.parametrize('name', ['a.xml', 'a.bin'])
def test_a_file_that_is_there_stays(name, export, tmp_path):
    (tmp_path / name).write_text('mine')
    code, out, err = export()
    assert (code, out) == (2, '') and f'{tmp_path / name} exists' in err
    assert (tmp_path / name).read_text() == 'mine'
    assert export('--force', '--no-check')[0] == 0
    assert names(tmp_path) == ['a.bin', 'a.xml']
    assert run(tmp_path / 'a.xml', images=np.zeros((1, 3, 64, 64), np.float32))


def test_both_files_or_none(export, monkeypatch, tmp_path):
    right, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, 'No space left on device')
        right(handle)

    monkeypatch.setattr(os, 'fsync', full)
    code, _, err = export('--no-check')
    assert code and 'No space left on device' in err
    assert len(calls) == 2 and names(tmp_path) == []


def test_what_openvino_does_not_take(export, monkeypatch, tmp_path):
    import openvino

    def odd(self, *arguments):
        raise RuntimeError('Exception from here:\nno such operation\n')

    monkeypatch.setattr(openvino.Core, 'read_model', odd)
    code, _, err = export()
    assert code == 1 and err.count('\n') == 1
    assert 'does not take the graph: Exception from here: no such operation' in err
    assert names(tmp_path) == []


@pytest.mark.parametrize('package', ['onnx', 'openvino'])
def test_a_missing_package_is_told_first(package, export, monkeypatch, tmp_path):
    load = importlib.import_module

    def without(name, *rest):
        if name == package:
            raise ModuleNotFoundError(name=package)
        return load(name, *rest)

    export('--size', '0')  # the detector is there by now
    monkeypatch.setattr(importlib, 'import_module', without)
    code, _, err = export()
    assert code == 2 and f'{package} is not installed' in err
    assert "pip install 'eca-mmdet[openvino]'" in err
