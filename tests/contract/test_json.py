"""The JSON output of commands on small inputs."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.contract.recorded import check, hide, key_paths

EVAL = 'eval --ann data/annotations/val.json --format json'
DETECTOR = 'retinanet_eca-r18-w16_fpn_shapes'

CASES = {
    'eval': (f'{EVAL} --results good.json --out e1', 0),
    'eval_two': (f'{EVAL} --results good.json bad.json --classwise --out e2', 0),
    'eval_masks_limits': (
        f'{EVAL} --results good.json --max-dets 1 2 5 --classes square circle '
        '--bootstrap 0 --backend pycocotools --out e3',
        0,
    ),
    'eval_analysis': (f'{EVAL} --results bad.json --analysis --out e4', 0),
    'data_check': (
        'data check data/annotations/train.json --images data/train --val '
        'data/annotations/val.json --val-images data/val --json',
        0,
    ),
    'data_check_faulty': ('data check faulty.json --images data/val --json', 1),
    'data_check_fix': ('data check faulty.json --fix fixed.json --json', 1),
    'data_check_classes': (
        'data check data/annotations/val.json --classes square triangle circle --json',
        1,
    ),
    'cost': (f'cost {DETECTOR} --shape 64 64 --json', 0),
    'cost_exact': (
        f'cost {DETECTOR} --shape 64 96 --convention exact --json',
        0,
    ),
    'paper_tables': ('paper tables --format json', 0),
    'paper_tables_row': ('paper tables --detector mask mask:r50:eca --format json', 0),
    'attention_list': ('attention list --channels 16 --size 8 8 --rounds 1 --json', 0),
    'configs': ('configs --json', 0),
    'configs_pattern': ('configs *eca-r50_fpn* --json', 0),
    'weights_inspect': ('weights inspect backbone.pth --json', 0),
    'weights_inspect_detector': ('weights inspect work/iter_4.pth --json', 0),
    'weights_convert': (
        'weights convert backbone.pth authors.pth --to authors --json',
        0,
    ),
    'data_split': (
        'data split data/annotations/train.json --val 0.3 --test 0.2 --stratify '
        '--seed 3 --out parts --json',
        0,
    ),
    'data_convert': ('data convert yolo --json', 0),
}


MACHINE = ('versions', 'date', 'setting', 'milliseconds')
PROSE = ('message', 'fix')


@pytest.mark.parametrize('name', CASES)
def test_json(name, eca_mmdet_command, folder, repository):
    line, expected = CASES[name]
    code, out, error = eca_mmdet_command(line)
    assert code == expected, error
    digest = hashlib.sha256((folder / 'backbone.pth').read_bytes()).hexdigest()
    for text, placeholder in (
        (str(folder), '<folder>'),
        (str(repository / 'configs'), '<configs>'),
        (digest, '<sha256>'),  # depends on the version of torch that wrote the file
    ):
        out = out.replace(text, placeholder)
    value = hide(hide(json.loads(out), MACHINE), PROSE, str)
    check(f'json/{name}.json', value)


def test_json_of_the_doctor(eca_mmdet_command):
    """Its values depend on the machine, so the keys are compared."""
    code, out, _ = eca_mmdet_command('doctor --no-self-test --json')
    assert code in (0, 1)
    check('json/doctor_keys.json', key_paths(json.loads(out)))


def test_config_path(eca_mmdet_command):
    code, out, _ = eca_mmdet_command(
        'configs --path mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
    )
    assert code == 0
    assert Path(out.strip()).name == 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco.py'
    assert Path(out.strip()).is_file()
