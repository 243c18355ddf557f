"""The same seed twice: the same weights; what cannot be promised is said."""

import os

import pytest
import torch

from eca_mmdet.catalog.configs import config_root
from eca_mmdet.checkpoints.reading import allow_mmengine_checkpoints
from eca_mmdet.cli import build_parser
from eca_mmdet.engine.config import set_randomness
from eca_mmdet.engine.failures import as_user_error
from eca_mmdet.utils.errors import UserError

# Everything is random here: weights, order, flips, and the samplers of two heads.
TINY = """
_base_ = {base!r}
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8)))
train_dataloader = dict(
    batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
    dataset=dict(data_root={data!r}))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root={data!r}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={data!r} + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_iters=3, val_interval=100)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
"""


@pytest.fixture(scope='module')
def run(ranks, shapes, tmp_path_factory):
    """Train with a seed in a process of its own; return the checkpoint."""
    root = tmp_path_factory.mktemp('seeds')
    base = str(config_root() / 'demo' / 'mask-rcnn_eca-r18-w16_fpn_shapes.py')

    def train(name, *words, workers=0):
        config = root / f'workers{workers}.py'
        config.write_text(TINY.format(base=base, data=f'{shapes}/', workers=workers))
        job = ranks.run('train', config, '--verbose', '--work-dir', root / name, *words)
        allow_mmengine_checkpoints()
        saved = torch.load(root / name / 'iter_3.pth', weights_only=True)
        return saved, job.output(0)

    return train


def differing(first, second):
    """Names of the tensors that differ in any bit."""
    a, b = first['state_dict'], second['state_dict']
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.slow
def test_twice_with_one_seed_gives_identical_weights(run):
    words = ('--seed', '0', '--deterministic')
    once, log = run('once', *words)
    assert 'deterministic: True' in log and 'seed: 0' in log
    again, _ = run('again', *words)
    assert differing(once, again) == []
    moments = [saved['optimizer']['state'][0]['exp_avg'] for saved in (once, again)]
    assert moments[0].equal(moments[1])


@pytest.mark.slow
def test_with_workers_and_the_seed_that_a_run_drew(run):
    """Without --seed a run records its own; that gives the weights again."""
    options = ('--cfg-options', 'randomness.seed=None')
    drawn, log = run('drawn', '--deterministic', *options, workers=2)
    seed = drawn['meta']['seed']
    assert f'seed: {seed}' in log
    words = ('--deterministic', '--seed', str(seed))
    again, _ = run('drawn-again', *words, workers=2)
    assert differing(drawn, again) == []
    other, _ = run('other', '--deterministic', '--seed', str(seed ^ 1), workers=2)
    assert len(differing(drawn, other)) > 50


def config(**content):
    from mmengine.config import Config

    return Config(content)


@pytest.mark.parametrize(
    ('own', 'seed', 'deterministic', 'expected'),
    [
        (None, None, False, None),
        (None, 3, False, {'seed': 3}),
        ({'seed': 5}, None, True, {'seed': 5, 'deterministic': True}),
        ({'seed': 5}, 0, True, {'seed': 0, 'deterministic': True}),
        ({'diff_rank_seed': True}, None, False, {'diff_rank_seed': True, 'seed': None}),
    ],
)
def test_what_is_written_into_the_config(
    monkeypatch, own, seed, deterministic, expected
):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':16:8')
    cfg = config(**({'randomness': own} if own else {}))
    set_randomness(cfg, seed, deterministic)
    assert cfg.get('randomness') == expected
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':16:8'  # the user's own


def test_deterministic_readies_cublas(monkeypatch):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    set_randomness(config(), 0, False)
    assert 'CUBLAS_WORKSPACE_CONFIG' not in os.environ
    set_randomness(config(), 0, True)
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'


def test_a_config_whose_randomness_is_no_dict():
    with pytest.raises(UserError, match="must be a dict; got 'seed=0'"):
        set_randomness(config(randomness='seed=0'), 1, False)


def test_an_operator_without_a_deterministic_version_is_named():
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UserError, match='deterministic put_ for this'):
            with as_user_error(None):  # one of the few that lack it on the CPU
                torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.raises(RuntimeError, match='another'), as_user_error(None):
        raise RuntimeError('another fault')


@pytest.mark.parametrize('seed', ['-1', '1.5', 'x', str(2**31)])
def test_a_seed_that_numpy_or_a_worker_could_not_take(capsys, seed):
    with pytest.raises(SystemExit):
        build_parser().parse_args(['train', 'NAME', '--seed', seed])
    assert 'seed' in capsys.readouterr().err
