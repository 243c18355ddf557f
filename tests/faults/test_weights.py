"""Bad files of weights in every command that reads one."""

import pytest

from tests.faults import weights_cases


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize('case', [*weights_cases.cases()], ids=lambda one: one.id)
def test_bad_weights(judge, case):
    judge(case)


@pytest.mark.slow
@pytest.mark.parametrize('name', [*weights_cases.SOUND, 'checkpoint.pth'])
def test_corrupted_weights(runner, tmp_path, name):
    raw = (runner.originals / name).read_bytes()
    for index, case in enumerate(weights_cases.corrupted(name, raw, 6, 4)):
        runner.judge(case, tmp_path / str(index))
