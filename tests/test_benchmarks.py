"""The benchmark tools run, and notice formulations that differ. No times are judged."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conftest import PYTHON, REPOSITORY

SMALL = ('--depths', '50', '--width', '8', '--scale', '0.15', '--rounds', '1')


def run(*words):
    return subprocess.run(
        [PYTHON, *words], capture_output=True, text=True, cwd=REPOSITORY
    )


FEWER = """
import sys
sys.path.insert(0, 'benchmarks')
import benchmark_backbone as tool
tool.DETECTORS = (tool.PLAIN, tool.OFFICIAL, 'ECA, lean')  # a process each
sys.exit(tool.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_backbones():
    done = run('-c', FEWER, *SMALL)
    assert done.returncode == 0, done.stderr
    assert 'the formulations agree: True' in done.stdout
    rows = {line[:30].strip(): line[30:].split() for line in done.stdout.splitlines()}
    plain, official, lean = (
        rows[name] for name in ('mmdet ResNet', 'ECA, official layer', 'ECA, lean')
    )
    # "peak" rows of the same names follow, and have replaced these three.
    assert [plain[0], official[0], lean[0]] == ['peak'] * 3
    assert 'times faster' in done.stdout


DIFFERENT = """
import sys
sys.path.insert(0, 'benchmarks')
import benchmark_backbone, formulations
shift = formulations.OfficialECA.forward
formulations.OfficialECA.forward = lambda self, x: shift(self, x) * 1.001
sys.exit(benchmark_backbone.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_formulation_that_differs_is_told():
    done = run('-c', DIFFERENT, *SMALL, '--no-detectors')
    assert done.returncode == 1, done.stderr
    assert 'agree: False' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('words', [(), ('--masks',)], ids=str)
def test_eval(words):
    done = run('benchmarks/eval.py', '--images', '30', *words)
    assert done.returncode == 0, done.stderr
    assert 'equal pycocotools, to the last bit: True' in done.stdout
    for side in ('hotcoco', 'eca-mmdet', 'pycocotools'):
        assert f'  {side} ' in done.stdout


@pytest.mark.slow
def test_parts_of_a_step():
    config = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
    words = (config, '--scale', '0.1', '--rounds', '1', '--positives', '4')
    done = run('benchmarks/step_profile.py', *words)
    assert done.returncode == 0, done.stderr
    rows = {line[:18].strip(): line[18:].split() for line in done.stdout.splitlines()}
    parts = (
        'backbone',
        'neck',
        'RPN',
        'RoIAlign',
        'box head',
        'mask head',
        'optimizer',
    )
    for part in (*parts, 'data', 'RoI targets', 'mask targets', 'RoI losses'):
        assert int(rows[part][2].replace(',', '')) > 0, part
    counted = [int(row[2].replace(',', '')) for row in rows.values() if len(row) == 6]
    assert counted[-1] == sum(counted[:-1])  # the row of all parts


@pytest.mark.slow
def test_gpu_checks_on_the_cpu():
    words = ('--device', 'cpu', '--small', 'versions', 'operators')
    done = run('benchmarks/gpu_checks.py', *words)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ends = {line['check']: line['result'] for line in lines if 'result' in line}
    assert (done.returncode, ends) == (0, {'versions': 'passed', 'operators': 'passed'})
    found = {line['operator'] for line in lines if 'operator' in line}
    assert found == {'nms', 'roi_align', 'sigmoid_focal_loss', 'deform_conv2d'}
    assert all(line.get('ok', True) for line in lines)


WRONG = """
import sys
sys.path.insert(0, 'benchmarks')
import gpu_checks as tool
gradients = tool.gradients
tool.gradients = lambda function, inputs, device: [
    1.01 * x if x.dtype != tool.torch.float64 else x
    for x in gradients(function, inputs, device)
]
sys.exit(tool.main(['--device', 'cpu', '--small', '--child', 'operators']))
"""


@pytest.mark.slow
def test_gpu_checks_report_wrong_values():
    done = run('-c', WRONG)
    assert done.returncode == 1, done.stderr
    assert (
        '"ok": false, "operator": "roi_align", "dtype": "torch.float32"' in done.stdout
    )
