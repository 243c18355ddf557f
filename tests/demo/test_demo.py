"""The demo: one quick run, its files, its refusals."""

import json
import os
import signal
import subprocess
import time

import cv2
import numpy as np
import pytest

from eca_mmdet.catalog.mechanisms import KEYS
from eca_mmdet.datasets.shapes import write_shapes
from eca_mmdet.demo import run as demo
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import describe_file, make_run_folder
from tests.conftest import PYTHON, listen_to_interrupts
from tests.support.report_runs import Page


@pytest.mark.slow
@pytest.mark.openmmlab
def test_quick_demo_leaves_a_complete_run_folder(tmp_path):
    out = tmp_path / 'run'
    done = subprocess.run(
        [PYTHON, '-m', 'eca_mmdet.cli', 'demo', '--quick', '--out', str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith('Next:\n')
    assert f'{demo.QUICK_ITERATIONS}/{demo.QUICK_ITERATIONS}  loss' in done.stdout
    record = json.loads((out / 'metrics.json').read_text())
    assert len(record['losses']) == demo.QUICK_ITERATIONS
    # Twelve steps from random weights more than halve the loss: rounding, which differs
    # between CPUs, is far from making it 0.8.
    assert np.mean(record['losses'][-3:]) < 0.8 * np.mean(record['losses'][:3])
    rows = {task: one['metrics'] for task, one in record['results'].items()}
    assert set(rows) == {'bbox', 'segm'}
    assert rows['bbox']['APL'] is None  # no object that large
    for row in rows.values():
        assert len(row) == 12
        assert all(v is None or 0 <= v <= 1 for v in row.values())
    checkpoint = out / 'train' / f'iter_{demo.QUICK_ITERATIONS}.pth'
    assert record['checkpoint'] == describe_file(checkpoint)
    table = (out / 'ap_table.md').read_text()
    assert f'| box | {rows["bbox"]["AP"] * 100:.1f} |' in ' '.join(table.split())
    page = Page((out / 'report.html').read_text())
    assert str((out / 'report.html').resolve()) in done.stdout.splitlines()[-1]
    for task, row in rows.items():
        (cells,) = page.results(task).values()
        shown = ['n/a' if v is None else f'{100 * v:.1f}' for v in row.values()]
        assert [*cells.values()] == shown
    assert page.images and page.table(class_='gates', run='run')
    assert page.table(class_='kernels', run='run')
    for name in ('loss_curve.png', 'predictions.png'):
        picture = cv2.imread(str(out / name))
        assert picture is not None and picture.std() > 5, name
    annotations = json.loads((out / 'data' / 'annotations' / 'val.json').read_text())
    assert len(annotations['images']) == demo.QUICK_SIZES['val']


@pytest.mark.slow
def test_interrupted_demo_ends_with_one_line(tmp_path):
    process = subprocess.Popen(
        [PYTHON, '-u', '-m', 'eca_mmdet.cli', 'demo', '--out', str(tmp_path / 'run')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1'},
        preexec_fn=listen_to_interrupts,
    )
    for line in process.stdout:
        if 'drawing' in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'what was written so far is in' in out
    assert err.strip() == 'eca-mmdet demo: interrupted'


def test_existing_folder_is_refused_and_kept(command, tmp_path):
    (tmp_path / 'mine').write_text('data')
    code, _, err = command('demo', '--quick', '--out', tmp_path)
    assert code == 2 and 'overwrites nothing' in err
    assert [f.name for f in tmp_path.iterdir()] == ['mine']


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot create the run folder'):
        make_run_folder(str(tmp_path / 'file' / 'run'), 'demo')


@pytest.fixture(scope='session')
def full_size_shapes(tmp_path_factory):
    """Two images of the demo's own size, which some mechanisms need."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return write_shapes(root, sizes={'train': 2, 'val': 2})


CHOICES = [
    (detector, attention, depth)
    for detector in ('faster', 'mask', 'retinanet')
    for attention in ('eca', 'se', 'none')
    for depth in (18, 50)
]
CHOICES += [
    ('faster' if index % 2 else 'retinanet', key, 18 if index % 4 < 2 else 50)
    for index, key in enumerate(KEYS)
    if key not in ('eca', 'se')
]


# On the second line of mmdet a few of each detector and mechanism.
CHOICES[::4] = [pytest.param(*one, marks=pytest.mark.openmmlab) for one in CHOICES[::4]]


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize(('detector', 'attention', 'depth'), CHOICES)
def test_every_choice_trains_one_step(
    mmdet_ready, shapes, full_size_shapes, detector, attention, depth
):
    """The loss is finite and reaches every parameter, gates included."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.runner import Runner

    data_root = shapes if attention in ('eca', 'se', 'none') else full_size_shapes
    cfg = demo.compose(detector, attention, depth, data_root, seed=3)
    demo.shorten(cfg)
    cfg.train_dataloader.batch_size = 2
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    loader = Runner.build_dataloader(cfg.train_dataloader)
    data = model.data_preprocessor(next(iter(loader)), training=True)
    loss, parts = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    assert ('loss_mask' in parts) == (detector == 'mask')
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    kinds = {'.eca.conv.weight': ('eca', 'ceca'), '.se.fc.2.weight': ('se',)}
    for key, keys in kinds.items():
        found = [k for k in model.state_dict() if k.endswith(key)]
        assert len(found) == ({18: 8, 50: 16}[depth] if attention in keys else 0)
