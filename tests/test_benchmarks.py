"""The benchmark tools run, and notice formulations that differ. No times are judged."""

from __future__ import annotations

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
