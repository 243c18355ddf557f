"""`eca-mmdet export onnx`: what it refuses, and what a failed check leaves behind."""

import os
import types

import pytest
import torch

from eca_mmdet import cli
from eca_mmdet.export import exporter, heads
from eca_mmdet.export import writer as graph_file
from eca_mmdet.export.heads import Heads
from eca_mmdet.export.writer import make_part, write_graph
from eca_mmdet.utils.errors import RunError
from tests.support import exporting

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def paths(mmdet_ready, shapes, tmp_path_factory):
    cfg, model = exporting.random_detector('faster', shapes)
    return exporting.save(tmp_path_factory.mktemp('paths'), cfg, model)


@pytest.fixture
def export(command, paths, tmp_path):
    """Run the command with one file and some words more."""

    def call(*words, config=None, checkpoint=None, out=None, form='onnx'):
        return command(
            *('export', form, config or paths[0], checkpoint or paths[1]),
            *(out or tmp_path / 'a.onnx', *words),
        )

    return call


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(checkpoint='none.pth'), 'none.pth'),
        (dict(config='none.py'), 'none.py'),
        (dict(out='a.pt'), 'a name in .onnx'),
        (dict(out='a.onnx', form='openvino'), 'a name in .xml'),
        (dict(out='none/a.onnx'), 'in no folder that exists'),
        (dict(words=['--size', '96']), 'got --size 96.'),
        (dict(words=['--size', '96', 'x']), 'got --size 96 x.'),
        (dict(words=['--size', '0', '96']), 'got --size 0 96.'),
        (dict(words=['--size', '96', '100']), 'The next is --size 96 128.'),
        (dict(words=['--images', 'none']), '--images none is no folder'),
        (dict(words=['--images', 'empty']), 'empty'),
        (dict(words=['--no-check', '--images', 'empty']), 'goes with the check'),
    ],
)
def test_what_cannot_be_is_said(given, message, export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    code, out, err = export(*given.pop('words', ()), **given)
    assert (code, out) == (2, '') and message in err and err.count('\n') == 1
    assert names(tmp_path) == ['empty']


@pytest.mark.parametrize(('form', 'out'), [('onnx', 'onnx'), ('openvino', 'xml')])
def test_the_usage_has_the_file_before_the_size(form, out, capsys):
    """--size would take the file for a side, and then nobody knows what is missing."""
    assert cli.main(f'export {form} C K --size 192 256 m.{out}'.split()) == 2
    error = capsys.readouterr().err
    assert '--size 800 1344' in error and f'got --size 192 256 m.{out}.' in error
    with pytest.raises(SystemExit):
        cli.main(['export', form, '--help'])
    usage, *_ = capsys.readouterr().out.split('\n')
    assert usage.endswith(f'export {form} [CONFIG] CHECKPOINT [OUT.{out}] [options]')


def test_a_file_that_is_there_stays(export, tmp_path):
    (tmp_path / 'a.onnx').write_text('mine')
    code, _, err = export()
    assert code == 2 and '--force' in err
    assert (tmp_path / 'a.onnx').read_text() == 'mine'
    assert export('--force', '--no-check', '--part', 'backbone')[0] == 0
    assert exporting.run(tmp_path / 'a.onnx', images=torch.zeros(1, 3, 64, 64).numpy())
    assert names(tmp_path) == ['a.onnx']


def test_a_link_to_nowhere_stays(export, tmp_path):
    (tmp_path / 'a.onnx').symlink_to(tmp_path / 'none')
    assert export()[0] == 2
    assert (tmp_path / 'a.onnx').is_symlink()


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_told_first(package, export, monkeypatch, tmp_path):
    import importlib

    load = importlib.import_module

    def without(name, *rest):
        if name == package:
            raise ModuleNotFoundError(name=package)
        return load(name, *rest)

    monkeypatch.setattr(importlib, 'import_module', without)
    code, _, err = export(checkpoint='none.pth')  # which nobody looked for yet
    assert code == 2 and f'{package} is not installed' in err
    assert "pip install 'eca-mmdet[export]'" in err


def _shifted(monkeypatch):
    """Anchors half a pixel off."""
    right = heads.grid_anchors
    monkeypatch.setattr(heads, 'grid_anchors', lambda *a: right(*a) + 0.5)


def _scored(monkeypatch):
    """Scores a little low."""
    right = Heads.forward

    def wrong(self, *arguments):
        boxes, scores, *others = right(self, *arguments)
        return [boxes, scores - 0.01, *others]

    monkeypatch.setattr(Heads, 'forward', wrong)


def _unsuppressed(monkeypatch):
    """Suppression at another overlap."""
    right = heads.suppress
    monkeypatch.setattr(heads, 'suppress', lambda b, s, iou: right(b, s, iou + 0.2))


def _results(change):
    """Return a sabotage of what comes out."""

    def sabotage(monkeypatch):
        right = Heads.forward
        monkeypatch.setattr(
            Heads, 'forward', lambda self, *given: change(right(self, *given))
        )

    return sabotage


def _narrow(found):
    """Narrow boxes a fifth of their width to the right."""
    boxes = found[0]
    width = boxes[..., 2] - boxes[..., 0]
    aside = 0.2 * width * (width < 60)
    across = torch.tensor([1.0, 0, 1, 0])
    return [boxes + aside[..., None] * across, *found[1:]]


def _doubled(found):
    """Every object twice."""
    return [one.repeat_interleave(2, 1)[:, : one.shape[1]] for one in found]


_moved, _twice = _results(_narrow), _results(_doubled)


def _first(monkeypatch):
    """The first image's size for all: right but in a batch."""
    right = heads.decode

    def wrong(coder, boxes, deltas, sizes):
        return right(coder, boxes, deltas, sizes[:1].expand_as(sizes))

    monkeypatch.setattr(heads, 'decode', wrong)


def _fixed(monkeypatch):
    """A graph that is for one size alone."""
    monkeypatch.setattr(
        graph_file, '_axes', lambda part, any_size: {n: {0: 'b'} for n in part.inputs}
    )


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize(
    'sabotage', [_shifted, _scored, _unsuppressed, _moved, _twice, _first, _fixed]
)
def test_a_wrong_file_fails_and_nothing_is_lost(
    sabotage, export, monkeypatch, tmp_path
):
    sabotage(monkeypatch)
    (tmp_path / 'a.onnx').write_text('mine')
    (tmp_path / 'a.failed.onnx').write_text('an earlier one')
    code, out, err = export('--force')
    assert code == 1, out
    kept = tmp_path / 'a.failed-2.onnx'
    assert str(kept) in err and f'{tmp_path / "a.onnx"} is as it was' in err
    assert (tmp_path / 'a.onnx').read_text() == 'mine'
    assert kept.stat().st_size > 1 << 20
    assert names(tmp_path) == ['a.failed-2.onnx', 'a.failed.onnx', 'a.onnx']


def _without_first(found):
    """Nothing in the first place."""
    boxes, scores, labels = found
    return [boxes[:, 1:], scores[:, 1:], labels[:, 1:]]


@pytest.mark.parametrize(
    ('sabotage', 'message'),
    [
        (_results(_without_first), 'cannot tell right from wrong order. Train longer'),
        (_shifted, 'Do not use it'),
    ],
)
def test_a_detector_of_nearly_equal_scores(
    sabotage, message, paths, export, monkeypatch, tmp_path
):
    content = torch.load(paths[1], weights_only=True)
    content['state_dict']['roi_head.bbox_head.fc_cls.weight'] *= 0.01
    torch.save(content, tmp_path / 'early.pth')
    sabotage(monkeypatch)
    code, _, err = export(checkpoint=tmp_path / 'early.pth')
    assert code == 1 and message in err, err


def test_wrong_features_fail(export, monkeypatch, tmp_path):
    right = exporter.write_graph

    def wrong(path, part, *others):
        with torch.no_grad():
            part.model.backbone.conv1.weight[0] *= 1.001
            right(path, part, *others)
            part.model.backbone.conv1.weight[0] /= 1.001

    monkeypatch.setattr(exporter, 'write_graph', wrong)
    assert export('--part', 'backbone')[0] == 1
    assert names(tmp_path) == ['a.failed.onnx']


@pytest.mark.parametrize('where', ['write_graph', 'compare'])
def test_an_interrupted_export_leaves_nothing(where, export, monkeypatch, tmp_path):
    def stop(path, *others):
        if where == 'write_graph':
            path.write_text('a part')
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, where, stop)
    code, _, err = export()
    assert code == 130 and 'interrupted' in err
    assert names(tmp_path) == []


def test_a_full_disk_is_told(export, monkeypatch, tmp_path):
    def full(path, *others):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(exporter, 'write_graph', full)
    code, _, err = export()
    assert code == 1 and 'No space left on device' in err, err
    assert 'cannot be written' in err, err
    assert names(tmp_path) == []


def test_more_than_a_file_takes_is_refused(export, monkeypatch):
    monkeypatch.setattr(exporter, '_MOST_BYTES', 1 << 20)
    code, _, err = export()
    assert code == 2 and '--part backbone' in err


def test_a_pipeline_that_the_metadata_cannot_say(paths, command, tmp_path):
    text = paths[0].read_text()
    text += "\ntest_dataloader['dataset']['pipeline'].insert(2, dict(type='Pad'))\n"
    (tmp_path / 'other.py').write_text(text)
    words = ('export', 'onnx', tmp_path / 'other.py', paths[1])
    code, _, err = command(*words, tmp_path / 'a.onnx')
    assert code == 2 and 'has Pad' in err
    code, _, err = command(*words, tmp_path / 'a.onnx', '--part', 'backbone')
    assert code == 0, err


def test_a_layer_that_onnx_does_not_have(monkeypatch, capfd, mmdet_ready, tmp_path):
    """One line is all that is said; PyTorch would print the graph."""

    class Odd(torch.nn.Module):
        def forward(self, x):
            return [torch.special.bessel_j0(x)]

    model = types.SimpleNamespace(backbone=Odd())
    part = make_part(model, 'backbone')
    with pytest.raises(RunError, match='bessel_j0'):
        write_graph(tmp_path / 'a.onnx', part, {})
    assert capfd.readouterr() == ('', '')
    assert names(tmp_path) == []
