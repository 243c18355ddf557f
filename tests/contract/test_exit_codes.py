"""Exit codes: 0 success, 1 a failed check, 2 wrong usage or input, 130 interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, listen_to_interrupts

VAL = 'data/annotations/val.json'
CONFIG = 'work/retinanet.py'
CHECKPOINT = 'work/iter_4.pth'
SHIPPED = 'retinanet_eca-r18-w16_fpn_shapes'

SUCCESS = [
    'configs',
    f'data check {VAL}',
    f'eval --ann {VAL} --results good.json --out s1',
    'paper tables',
    'weights inspect backbone.pth',
    f'data split {VAL} --val 0.5 --out s2',
    f'init --train data/annotations/train.json --val {VAL}',
    'data convert yolo --out s3',
    f'eval --ann {VAL} --results empty_list.json --types bbox --out s4',
]
MISSING_FILE = [
    f'{command} --work-dir refused --cfg-options {option}'
    for command, option in (
        (f'train {CONFIG}', 'train_dataloader.dataset.ann_file=missing'),
        (f'train {CONFIG}', 'train_dataloader.dataset.ann_file=missing.json'),
        (f'train {CONFIG}', 'train_dataloader.dataset.data_root=missing'),
        (f'train {CONFIG}', 'train_dataloader.dataset.data_prefix.img=missing'),
        (f'train {CONFIG}', 'val_dataloader.dataset.ann_file=missing'),
        (f'train {CONFIG}', 'val_evaluator.ann_file=missing'),
        (f'test {CONFIG} {CHECKPOINT}', 'test_dataloader.dataset.ann_file=missing'),
        (
            f'test {CONFIG} {CHECKPOINT}',
            'test_dataloader.dataset.proposal_file=missing.pkl',
        ),
        (f'test {CONFIG} {CHECKPOINT}', 'test_evaluator.ann_file=missing'),
    )
]
FAILED_CHECK = [
    'data check faulty.json',
    f'data check {VAL} --classes square triangle circle',
]
WRONG_USAGE = [
    '',
    'unknown-command',
    'eval',
    'eval --ann missing.json --results good.json --out w',
    f'eval --ann {VAL} --results missing.json --out w',
    f'eval --ann {VAL} --results empty.json --out w',
    f'eval --ann {VAL} --results text.json --out w',
    f'eval --ann {VAL} --results wrong_image.json --out w',
    f'eval --ann {VAL} --results wrong_category.json --out w',
    f'eval --ann {VAL} --results list.json --out w',
    'eval --ann empty.json --results good.json --out w',
    'eval --ann good.json --results good.json --out w',
    'eval --ann no_images.json --results good.json --out w',
    f'eval --ann {VAL} --results good.json --out taken',
    f'eval --ann {VAL} --results good.json --classes unicorn --out w',
    f'eval --ann {VAL} --results good.json --max-dets 0 --out w',
    f'eval --ann {VAL} --results good.json --types keypoints --out w',
    f'eval --ann {VAL} --results good.json --bootstrap -1 --out w',
    'data check missing.json',
    'data check empty.json',
    'data check list.json',
    'data check .',
    f'data check faulty.json --fix {VAL}',
    f'data check {VAL} --images missing',
    'cost no-such-config',
    'cost broken_config.py',
    'cost unknown_type.py',
    f'cost {SHIPPED} --shape 0 64',
    f'cost {SHIPPED} --cfg-options model.backbone.nonsense=1',
    f'cost {SHIPPED} --cfg-options no_equals_sign',
    'paper tables no:such:row',
    'attention unknown-mechanism',
    'attention eca --channels 0',
    'configs --path no-such-config',
    'weights',
    'weights inspect missing.pth',
    'weights inspect empty.pth',
    'weights inspect truncated.pth',
    'weights inspect data/val/011.png',
    'weights convert backbone.pth backbone.pth',
    'weights convert backbone.pth good.json',
    'weights convert backbone.pth out.txt',
    'weights convert backbone.pth out.pth --to nonsense',
    f'data split {VAL} --val 0 --out w',
    f'data split {VAL} --val 1.5 --out w',
    f'data split {VAL} --val 0.5 --group-by no_such_field --out w',
    'data split no_images.json --val 0.5 --out w',
    'init --train missing.json',
    f'init --train {VAL} --model no-such-model',
    f'init --train {VAL} --epochs 0',
    'data convert missing',
    'data convert no_pictures',
    'predict missing.pth data/val --out w',
    'predict truncated.pth data/val --out w',
    'predict backbone.pth data/val --out w',
    f'predict {CHECKPOINT} missing --out w',
    f'predict {CHECKPOINT} no_pictures --out w',
    f'predict {CHECKPOINT} data/val --score-thr 2 --out w',
    f'predict {CHECKPOINT} data/val --out taken',
    'gates missing.pth --images data/val --out w',
    f'gates {CHECKPOINT} --images no_pictures --out w',
    f'gates {CHECKPOINT} --images data/val --out taken',
    f'test no-such-config {CHECKPOINT}',
    f'test {CONFIG} missing.pth --work-dir refused',
    f'test {CONFIG} truncated.pth --work-dir refused',
    f'test {CONFIG} {CHECKPOINT} --compile --work-dir refused',
    'train',
    'train no-such-config',
    f'train {CONFIG} --work-dir refused --resume missing.pth',
    f'train {CONFIG} --work-dir refused --resume truncated.pth',
    f'train {CONFIG} --work-dir refused --cfg-options model.bbox_head.num_classes=7',
    f'train {CONFIG} --work-dir refused --cfg-options load_from=missing.pth',
    f'train {CONFIG} --work-dir good.json',
    f'train {CONFIG} --work-dir good.json/below',
    f'test {CONFIG} {CHECKPOINT} --work-dir good.json',
    f'test {CONFIG} {CHECKPOINT} --work-dir good.json/below',
    f'train {CONFIG} --data {VAL}',
    'train --data missing.json',
    f'export onnx {CONFIG} missing.pth out.onnx',
    f'export onnx {CONFIG} {CHECKPOINT} good.json',
    f'export onnx {CONFIG} {CHECKPOINT} out.onnx --size 64',
    'export',
    'report missing',
    'report no_pictures',
    'paper reproduce --coco missing --weights work',
    'paper reproduce --coco data --weights work',
    'demo --detector nonsense',
    'demo --attention nonsense --out w',
    'demo --out taken',
    'attention compare --mechanisms nonsense --out w',
    'attention compare --seeds 0 --out w',
    'doctor --nonsense',
]


@pytest.mark.parametrize(
    ('line', 'expected'),
    [(line, 0) for line in SUCCESS]
    + [(line, 1) for line in FAILED_CHECK]
    + [(line, 2) for line in WRONG_USAGE + MISSING_FILE],
)
def test_exit_code(line, expected, eca_mmdet_command, folder):
    code, out, error = eca_mmdet_command(line)
    assert code == expected, error or out
    assert 'Traceback' not in error
    if line in MISSING_FILE:
        assert '[file-not-found]' in error
    if expected == 2:
        assert error.strip()
        assert not (folder / 'w').exists()


def test_interrupt(folder):
    """Ctrl-C during a training, in a process of its own as a user starts it."""
    line = (
        f'train {CONFIG} --work-dir interrupted --cfg-options train_cfg.max_iters=9999'
    )
    with open('interrupted.txt', 'w') as output:
        job = subprocess.Popen(
            [sys.executable, '-m', 'eca_mmdet.cli', *line.split()],
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=listen_to_interrupts,
            env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
        )
    try:
        end = time.monotonic() + 120
        while not any(folder.glob('interrupted/*/vis_data/scalars.json')):
            assert job.poll() is None, Path('interrupted.txt').read_text()[-2000:]
            assert time.monotonic() < end
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        assert job.wait(60) == 130
    finally:
        job.kill()
        job.wait()
    assert 'Traceback' not in Path('interrupted.txt').read_text()


def test_interrupt_in_process(eca_mmdet_command, monkeypatch):
    """The same for a command that is reading a file."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('eca_mmdet.datasets.checking.read_annotations', interrupt)
    code, out, error = eca_mmdet_command(f'data check {VAL}')
    assert (code, out) == (130, '')
    assert 'interrupted' in error
