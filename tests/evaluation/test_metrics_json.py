"""metrics.json: when it is written, under which name, and what it says."""

import json
import logging
from types import SimpleNamespace

import pytest

from eca_mmdet.evaluation.coco_eval import versions
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import describe_file, write_json

pytestmark = pytest.mark.openmmlab

RECORD = {'results': {'bbox': {'metrics': {'AP': 0.5}}}, 'backend': 'hotcoco'}


@pytest.fixture
def hook(mmdet_ready):
    from eca_mmdet.evaluation.metric import MetricsFileHook

    return MetricsFileHook()


@pytest.fixture
def runner(mmdet_ready, tmp_path):
    """What the hook asks of mmengine's Runner."""
    from mmengine.config import Config

    evaluator = SimpleNamespace(metrics=[SimpleNamespace(record=RECORD)])
    info = {}
    return SimpleNamespace(
        cfg=Config({}, filename=None),
        log_dir=str(tmp_path),
        logger=logging.getLogger('test'),
        message_hub=SimpleNamespace(get_info=lambda key, default: info.get(key)),
        info=info,
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        _load_from=None,
        _train_loop={},
        epoch=0,
        iter=0,
    )


def train_loop(kind):
    from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

    loops = {'epoch': EpochBasedTrainLoop, 'iter': IterBasedTrainLoop}
    return loops[kind].__new__(loops[kind])


def written(tmp_path):
    names = sorted(file.name for file in tmp_path.glob('*.json'))
    return {name: json.loads((tmp_path / name).read_text()) for name in names}


@pytest.mark.parametrize('kind', ['epoch', 'iter'])
def test_each_validation_has_a_file_and_the_last_one_is_metrics(
    hook, runner, tmp_path, kind
):
    runner._train_loop = train_loop(kind)
    for at in (1, 2):
        setattr(runner, kind, at)
        checkpoint = tmp_path / f'{kind}_{at}.pth'
        checkpoint.write_bytes(b'weights %d' % at)
        runner.info['last_ckpt'] = str(checkpoint)
        hook.after_val_epoch(runner, {})
    files = written(tmp_path)
    assert list(files) == [
        'metrics.json',
        f'metrics_{kind}_1.json',
        f'metrics_{kind}_2.json',
    ]
    assert files['metrics.json'] == files[f'metrics_{kind}_2.json']
    assert files[f'metrics_{kind}_1.json'][kind] == 1
    assert files['metrics.json'] == {
        **RECORD,
        'config': None,
        kind: 2,
        'checkpoint': describe_file(tmp_path / f'{kind}_2.pth'),
    }
    assert files[f'metrics_{kind}_1.json']['checkpoint'] == describe_file(
        tmp_path / f'{kind}_1.pth'
    )


def test_the_last_evaluation_alone_has_the_errors(hook, runner, tmp_path):
    runner._train_loop, runner.epoch = train_loop('epoch'), 3
    errors = {'bbox': {'errors': {'ap_base': 0.5}}}
    runner.val_evaluator.metrics[0].analyze = lambda: errors
    hook.after_val_epoch(runner, {})
    files = written(tmp_path)
    assert files['metrics.json'].pop('analysis') == [errors]
    assert files['metrics.json'] == files['metrics_epoch_3.json']


def test_an_analysis_that_fails_costs_no_number(hook, runner, tmp_path, caplog):
    def fail():
        raise RuntimeError('no memory')

    runner.test_evaluator.metrics[0].analyze = fail
    hook.after_test_epoch(runner, {})
    assert written(tmp_path)['metrics.json']['results'] == RECORD['results']
    assert 'no memory' in caplog.text


def test_an_interrupt_in_the_analysis_costs_no_number(hook, runner, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    runner.test_evaluator.metrics[0].analyze = interrupt
    with pytest.raises(KeyboardInterrupt):
        hook.after_test_epoch(runner, {})
    assert written(tmp_path)['metrics.json']['results'] == RECORD['results']


def test_a_checkpoint_of_an_earlier_epoch_is_not_what_was_measured(
    hook, runner, tmp_path
):
    runner._train_loop, runner.epoch = train_loop('epoch'), 3
    (tmp_path / 'epoch_2.pth').write_bytes(b'weights')
    runner.info['last_ckpt'] = str(tmp_path / 'epoch_2.pth')
    hook.after_val_epoch(runner, {})
    assert written(tmp_path)['metrics.json']['checkpoint'] is None


def test_a_test_names_its_checkpoint_and_config(hook, runner, tmp_path):
    checkpoint = tmp_path / 'x.pth'
    checkpoint.write_bytes(b'weights')
    runner._load_from = str(checkpoint)
    config = tmp_path / 'faster-rcnn_x.py'
    config.write_text('a = 1\n')
    runner.cfg = type(runner.cfg).fromfile(str(config))
    hook.after_test_epoch(runner, {})
    found = written(tmp_path)
    assert list(found) == ['metrics.json']
    assert found['metrics.json']['config'] == 'faster-rcnn_x'
    assert found['metrics.json']['checkpoint'] == {
        'file': str(checkpoint),
        # printf weights | sha256sum
        'sha256': '9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c',
    }
    assert 'epoch' not in found['metrics.json']


def test_an_address_is_named_alone(hook, runner, tmp_path):
    runner._load_from = 'https://example.org/x.pth'
    hook.after_test_epoch(runner, {})
    assert written(tmp_path)['metrics.json']['checkpoint'] == {
        'file': 'https://example.org/x.pth'
    }


def test_several_evaluators_come_together(hook, runner, tmp_path):
    masks = {'results': {'segm': {'metrics': {'AP': 0.25}}}, 'backend': 'hotcoco'}
    other = SimpleNamespace()  # a metric that is not ours
    runner.test_evaluator.metrics += [other, SimpleNamespace(record=masks)]
    hook.after_test_epoch(runner, {})
    found = written(tmp_path)['metrics.json']
    assert found['results']['bbox']['metrics'] == {'AP': 0.5}
    assert found['other_evaluators'] == [masks]
    assert 'other_evaluators' not in RECORD


def test_nothing_is_written_of_other_metrics_alone(hook, runner, tmp_path):
    runner.test_evaluator.metrics = [SimpleNamespace()]
    hook.after_test_epoch(runner, {})
    assert written(tmp_path) == {}


def test_versions_are_those_of_the_packages():
    import hotcoco
    import numpy

    found = versions()
    assert found['hotcoco'] == hotcoco.__version__
    assert found['numpy'] == numpy.__version__


def test_a_file_that_cannot_be_written_is_told_and_left(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(UserError, match='cannot be written'):
        write_json(tmp_path / 'file' / 'metrics.json', {})
    target = tmp_path / 'metrics.json'
    target.write_text('old')
    with pytest.raises(TypeError):
        write_json(target, {'a': object()})
    assert target.read_text() == 'old'
    assert sorted(f.name for f in tmp_path.iterdir()) == ['file', 'metrics.json']
