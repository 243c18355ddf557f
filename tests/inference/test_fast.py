"""Inference at speed: what changes, what must not, and the command's options."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import torch
from torch import nn

from eca_mmdet.catalog.configs import resolve_config
from eca_mmdet.utils.errors import UserError
from tests.support.training_runs import DEMO, shapes_options
from tests.tolerances import assert_near

pytestmark = pytest.mark.openmmlab


@pytest.fixture
def detector(mmdet_ready):
    """Return the demo's detector, with norms that a wrong fusion would show."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(str(resolve_config(DEMO))).model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.running_mean.normal_(0, 0.5)
            layer.running_var.uniform_(0.5, 2)
    model.eval()
    return model


def image():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, 128, 160, generator=generator)


def test_fusion_is_checked_without_tf32(detector, monkeypatch):
    """Rounded to TF32's 10 bits, scaled weights differ by more than is allowed."""
    from eca_mmdet.inference import fast

    convolve = torch.nn.functional.conv2d

    def as_on_a_gpu(x, weight, *args, **kwargs):
        if torch.backends.cudnn.allow_tf32:
            x, weight = (
                ((one.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(
                    torch.float32
                )
                for one in (x, weight)
            )
        return convolve(x, weight, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, 'conv2d', as_on_a_gpu)
    before = torch.backends.cuda.matmul.allow_tf32
    fast.make_fast(detector)
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before
    monkeypatch.setattr(fast, '_without_tf32', contextlib.nullcontext)
    with pytest.raises(UserError, match='changes its features'):
        fast.make_fast(detector)


def test_features_are_near_and_float32(detector):
    from eca_mmdet.inference.fast import make_fast

    fast = make_fast(detector)
    with torch.no_grad():
        expected, got = detector.extract_feat(image()), fast.extract_feat(image())
    for one, other in zip(expected, got, strict=True):
        assert other.dtype == torch.float32
        error = ((one - other).norm() / one.norm()).item()
        assert 1e-4 < error < 2e-2  # bfloat16's, no more and no less
    for part in (fast.backbone, fast.neck):
        assert not any(isinstance(one, nn.BatchNorm2d) for one in part.modules())
    weight = fast.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert fast.extracted == 1
    again = copy.deepcopy(fast)
    with torch.no_grad():
        for one in again.backbone.parameters():
            one.zero_()
        assert not torch.allclose(again.extract_feat(image())[0], got[0])
    # The detector, and the heads, are as they were.
    assert any(isinstance(one, nn.BatchNorm2d) for one in detector.modules())
    heads = detector.roi_head.state_dict()
    for key, value in fast.roi_head.state_dict().items():
        assert torch.equal(value, heads[key]), key


def test_float16_where_bfloat16_is_emulated(detector, monkeypatch):
    """Its features are nearer, unless they exceed its range."""
    from eca_mmdet.inference import fast

    monkeypatch.setattr(fast, 'low_precision', lambda device: torch.float16)
    with torch.no_grad():
        expected = detector.extract_feat(image())
        copied = fast.make_fast(detector)
        got = copied.extract_feat(image())
    assert (copied.precision, copied.extracted) == (torch.float16, 1)
    for one, other in zip(expected, got, strict=True):
        assert 1e-5 < ((one - other).norm() / one.norm()).item() < 2e-3
    with torch.no_grad():
        detector.backbone.bn1.weight.mul_(1e5)
    with pytest.raises(UserError, match='exceed the range of float16'):
        fast.make_fast(detector)


@pytest.mark.parametrize(('factor', 'allowed'), [(1.02, True), (1.1, False)])
def test_compiled_features_are_held_against_the_layers(
    detector, monkeypatch, factor, allowed
):
    from eca_mmdet.inference.fast import make_fast

    calls = []

    def compile(call, dynamic):
        assert dynamic

        def run(*args):
            calls.append(1)
            return tuple(level * factor for level in call(*args))

        return run

    monkeypatch.setattr(torch, 'compile', compile)
    fast = make_fast(detector, compiled=True)
    with torch.no_grad():
        if not allowed:
            with pytest.raises(UserError, match='Test it without --compile'):
                fast.extract_feat(image())
            return
        first = fast.extract_feat(image())
        assert torch.equal(first[0], fast.extract_feat(image())[0])
    assert (len(calls), fast.extracted) == (2, 2)


def test_fusion_by_itself_is_exact(detector):
    from eca_mmdet.inference.fast import _fuse

    fused = copy.deepcopy(detector).double()
    with torch.no_grad():
        expected = detector.double().extract_feat(image().double())
        _fuse(fused)
        for one, other in zip(
            expected, fused.extract_feat(image().double()), strict=True
        ):
            assert_near(other, one, 1e-9)


def test_layers_in_another_order_are_refused(detector):
    """Fusion takes the norm after a convolution for the one it feeds."""
    from eca_mmdet.inference.fast import make_fast

    block = detector.backbone.layer1[0]
    block.norm1_name, block.norm2_name = block.norm2_name, block.norm1_name
    with pytest.raises(UserError, match='Test it without --fast'):
        make_fast(detector)


def test_features_that_are_no_numbers_are_no_agreement():
    from eca_mmdet.inference.fast import _fuse

    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    nn.init.constant_(model.backbone[1].bias, 100)
    model.extract_feat = lambda x: (model.backbone[1](x).log(),)
    with pytest.raises(UserError, match='Test it without --fast'):
        _fuse(model)


@pytest.mark.parametrize('norm', [dict(affine=False), dict(track_running_stats=False)])
def test_norms_that_cannot_be_fused_are_told(norm):
    from eca_mmdet.inference.fast import _fuse

    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, **norm)).eval()
    model.extract_feat = lambda x: (model.backbone(x),)
    with pytest.raises(UserError, match='need weights and running statistics'):
        _fuse(model)


def test_other_models_are_refused():
    from eca_mmdet.inference.fast import make_fast

    with pytest.raises(UserError, match='a detector with a backbone.*got Linear'):
        make_fast(nn.Linear(2, 2))


def test_options_that_mean_nothing_are_refused(command, tmp_path):
    for words in (('--compile',), ('--compare',)):
        code, _, err = command('test', DEMO, 'x.pth', *words)
        assert code == 2 and '[option-conflict]' in err
    words = ('--fast', '--compare', '--save-results', tmp_path / 'out')
    code, _, err = command('test', DEMO, 'x.pth', *words)
    assert code == 2 and 'saves no detections' in err
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_command(detector, shapes, command, tmp_path):
    """The two evaluations are told apart in the output and in the files."""
    file = tmp_path / 'detector.pth'
    torch.save({'state_dict': detector.state_dict()}, file)
    options = shapes_options(shapes)
    words = ('test', DEMO, file, *options)
    code, out, _ = command(*words, '--work-dir', tmp_path / 'fast', '--fast')
    assert code == 0 and 'What --fast changes' not in out
    [path] = (tmp_path / 'fast').glob('*/metrics.json')
    record = json.loads(path.read_text())
    assert record['fast'] is True and record['fast_dtype'] == 'bfloat16'
    assert record['checkpoint']['file'] == str(file)

    both = ('--work-dir', tmp_path / 'both', '--fast', '--compare', '--json')
    code, out, err = command(*words, *both)
    assert code == 0 and json.loads(out).keys() >= {'coco/bbox_mAP', 'coco/segm_mAP'}
    for line in ('box, float32', 'box, fast', 'mask, difference'):
        assert line in err
    [path] = (tmp_path / 'both').glob('*/metrics.json')
    assert json.loads(path.read_text())['fast'] is True
    exact = json.loads((path.parent / 'metrics_float32.json').read_text())
    assert 'fast' not in exact
    assert exact['annotations'] == record['annotations']


@pytest.mark.slow
@pytest.mark.parametrize('words', [(), ('--compare',)])
def test_averaged_weights_are_those_that_are_tested(
    detector, shapes, command, tmp_path, words
):
    """With EMAHook, which swaps weights before and after a test."""
    from eca_mmdet.inference import fast

    file = tmp_path / 'detector.pth'
    torch.save({'state_dict': detector.state_dict(), 'meta': {}}, file)
    config = tmp_path / 'ema.py'
    base = resolve_config(DEMO)
    hooks = "[dict(type='EMAHook'), dict(type='MetricsFileHook')]"
    config.write_text(f'_base_ = {str(base)!r}\ncustom_hooks = {hooks}\n')
    seen = []
    make_fast = fast.make_fast

    def watched(model, compiled):
        seen.append(model.backbone.conv1.weight.detach().clone())
        return make_fast(model, compiled)

    options = shapes_options(shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, 'make_fast', watched)
        code, _, err = command(
            *('test', config, file, '--fast', *words, '--work-dir', tmp_path / 'work'),
            *options,
        )
    assert code == 0, err
    [weight] = seen
    assert torch.equal(weight, detector.backbone.conv1.weight)


def test_other_metrics_are_compared_by_name(mmdet_ready):
    from eca_mmdet.engine.testing import comparison

    text = comparison({'voc/mAP': 0.5, 'voc/AP50': 0.25}, {'voc/mAP': 0.4931})
    assert text.splitlines()[-1].split() == ['voc/mAP', '0.5000', '0.4931', '-0.0069']


def test_the_difference_is_fast_minus_exact(mmdet_ready):
    from eca_mmdet.engine.testing import comparison

    exact = {'coco/bbox_AP': 0.5, 'coco/bbox_APS': 0.25, 'coco/bbox_APL': -1.0}
    fast = {'coco/bbox_AP': 0.493, 'coco/bbox_APS': 0.26, 'coco/bbox_APL': -1.0}
    lines = comparison(exact, fast).splitlines()
    assert lines[-1].split() == ['box,', 'difference', '-0.7', '+1.0', 'n/a']
    assert lines[-2].split() == ['box,', 'fast', '49.3', '26.0', 'n/a']
