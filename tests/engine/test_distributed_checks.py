"""What is checked before a job, and what is made of its errors and its checkpoints."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eca_mmdet.cli import main
from eca_mmdet.engine import distributed as processes
from eca_mmdet.utils.errors import RunError, UserError


def start_by_hand(monkeypatch, **variables):
    known = [name for names in processes.VARIABLES.values() for name in names]
    for name in [*known, 'MASTER_ADDR', 'MASTER_PORT', 'SLURM_NODELIST']:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ('launcher', 'variables', 'fault'),
    [
        ('pytorch', {}, 'RANK is not set'),
        ('pytorch', {'RANK': '0', 'WORLD_SIZE': 'x'}, 'LOCAL_RANK is not set'),
        (
            'pytorch',
            {
                'RANK': '-1',
                'WORLD_SIZE': '2',
                'LOCAL_RANK': '0',
                'MASTER_ADDR': 'a',
                'MASTER_PORT': '1',
            },
            "RANK='-1' is not a number",
        ),
        ('slurm', {}, 'SLURM_PROCID is not set'),
        (
            'slurm',
            {'SLURM_PROCID': '0', 'SLURM_NTASKS': '2'},
            'SLURM_NODELIST is not set',
        ),
        ('mpi', {'RANK': '0'}, 'OMPI_COMM_WORLD_RANK is not set'),
    ],
)
def test_a_launcher_that_did_not_start_it(
    monkeypatch, capsys, launcher, variables, fault
):
    start_by_hand(monkeypatch, **variables)
    assert main(['train', 'retinanet_eca-r50_fpn_4xb2-1x_coco', '--launcher', launcher])
    line = capsys.readouterr().err.strip()
    assert line.startswith(f'eca-mmdet train: --launcher {launcher}: {fault}.')
    assert '\n' not in line and 'docs/scale.md' in line


@pytest.mark.parametrize(
    ('settings', 'fault'),
    [
        ({'launcher': 'slurm'}, '--launcher slurm needs a GPU for each process'),
        ({'launcher': 'mpi'}, '--launcher mpi needs a GPU for each process'),
        ({'strategy': {'type': 'FSDPStrategy'}}, 'FSDPStrategy needs a GPU'),
        ({'strategy': {'type': 'DeepSpeedStrategy'}}, 'DeepSpeedStrategy needs a GPU'),
    ],
)
def test_what_needs_a_gpu_says_so(monkeypatch, mmdet_ready, settings, fault):
    import mmengine.device
    from mmengine.config import Config

    monkeypatch.setattr(mmengine.device, 'get_device', lambda: 'cpu')
    with pytest.raises(UserError, match=fault):
        processes.start_processes_on_cpu(Config({'launcher': 'none', **settings}))


def test_open_mpi_tells_the_device(monkeypatch):
    """mmengine wraps the model by LOCAL_RANK, which Open MPI does not set."""
    names = dict(zip(processes.VARIABLES['mpi'], ('3', '8', '1'), strict=True))
    start_by_hand(monkeypatch, MASTER_ADDR='node0', **names)
    processes.require_launcher('mpi')
    assert (os.environ['LOCAL_RANK'], processes.count_processes('mpi')) == ('1', 8)
    monkeypatch.setenv('SLURM_NTASKS', '5')  # a job of Slurm around mpirun
    assert processes.count_processes('mpi') == 8
    assert processes.count_processes('none') == 1


def test_the_timeout_of_command_line_config_or_neither(mmdet_ready):
    from mmengine.config import Config

    for own, given, expected in ((None, None, 600), (60, None, 60), (60, 5, 5)):
        cfg = Config({'launcher': 'pytorch'})
        if own:
            cfg.env_cfg = {'dist_cfg': {'backend': 'nccl', 'timeout': own}}
        processes.set_timeout(cfg, given)
        assert cfg.env_cfg.dist_cfg == {'backend': 'nccl', 'timeout': expected}
    cfg = Config({'launcher': 'none'})
    processes.set_timeout(cfg, 5)
    assert 'env_cfg' not in cfg


def test_only_a_lost_process_is_reported_as_one(monkeypatch, tmp_path):
    from mmengine.config import Config

    cfg = Config({'launcher': 'pytorch', 'work_dir': str(tmp_path)})
    text = '[x/gloo/transport/tcp/pair.cc:561] Connection closed by peer. See GLHF'
    with pytest.raises(RunError) as caught, processes.job(cfg):
        raise RuntimeError(text)
    assert caught.value.code == 'peer-lost'
    assert ': Connection closed by peer. The first' in str(caught.value)
    assert 'kept' not in str(caught.value)
    (tmp_path / 'last_checkpoint').write_text('a/iter_2.pth')
    with pytest.raises(RunError, match='a/iter_2.pth is kept'), processes.job(cfg):
        raise torch.distributed.DistStoreError('wait timeout after 5000ms')
    with pytest.raises(RuntimeError, match='^size'), processes.job(cfg):
        raise RuntimeError('size mismatch')
    cfg.launcher = 'none'
    with pytest.raises(RuntimeError, match='gloo'), processes.job(cfg):
        raise RuntimeError(text)


@pytest.mark.parametrize('factor', [0.5, 4])
def test_scaled_rates_are_those_of_a_run_with_the_scaled_rate(mmdet_ready, factor):
    """Warm-up, steps and cosine, from each step on, against a run from the start."""
    from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR

    from eca_mmdet.engine.loops import scale_rates

    def start(lr):
        groups = [{'params': [torch.zeros(1)], 'lr': lr * k} for k in (1, 2)]
        optimizer = torch.optim.SGD(groups, lr=lr)
        schedulers = [
            LinearLR(optimizer, start_factor=0.1, begin=0, end=4),
            MultiStepLR(optimizer, milestones=[3, 6]),
            CosineAnnealingLR(optimizer, T_max=10, eta_min_ratio=0.1, begin=2),
        ]
        return optimizer, schedulers

    def go(optimizer, schedulers, steps):
        rates = []
        for _ in range(steps):
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
            rates.append([group['lr'] for group in optimizer.param_groups])
        return rates

    expected = go(*start(0.1 * factor), 9)
    for at in range(1, 9):
        optimizer, schedulers = start(0.1)
        go(optimizer, schedulers, at)
        saved = {
            'optimizer': optimizer.state_dict(),
            'param_schedulers': [scheduler.state_dict() for scheduler in schedulers],
        }
        scale_rates(saved, factor)
        optimizer, schedulers = start(7.0)
        optimizer.load_state_dict(saved['optimizer'])
        for scheduler, state in zip(schedulers, saved['param_schedulers'], strict=True):
            scheduler.load_state_dict(state)
        np.testing.assert_allclose(go(optimizer, schedulers, 9 - at), expected[at:])


@pytest.mark.parametrize(
    ('resumed', 'meta', 'scale', 'lr', 'line'),
    [
        (True, {'images_per_step': 8}, True, 0.05, '4 images a step, not 8: lr x 0.5'),
        (True, {'images_per_step': 8}, False, 0.1, 'not 8: lr left as it was'),
        (True, {'images_per_step': 4}, True, 0.1, '4 images a step as before'),
        (True, {}, True, 0.1, 'the checkpoint does not say its own'),
        (False, {'images_per_step': 8}, True, 0.1, None),
    ],
)
def test_a_changed_batch_is_told(mmdet_ready, resumed, meta, scale, lr, line):
    from eca_mmdet.engine.loops import ResumedBatchHook

    said = []
    logger = SimpleNamespace(info=said.append)
    runner = SimpleNamespace(_resume=resumed, logger=logger)
    checkpoint = {'meta': meta, 'optimizer': {'param_groups': [{'lr': 0.1}]}}
    ResumedBatchHook(4, scale).after_load_checkpoint(runner, checkpoint)
    assert checkpoint['optimizer']['param_groups'][0]['lr'] == pytest.approx(lr)
    assert len(said) == (line is not None) and all(line in one for one in said)
