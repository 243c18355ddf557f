"""Broken configs in the commands that take one."""

import pytest

from tests.faults import config_cases
from tests.faults.originals import STEM


@pytest.mark.sweep(fast=6)
@pytest.mark.parametrize('case', [*config_cases.cases()], ids=lambda one: one.id)
def test_bad_configs(judge, case):
    judge(case)


@pytest.mark.slow
def test_corrupted_configs(runner, tmp_path):
    raw = (runner.originals / f'{STEM}.py').read_bytes()
    for index, case in enumerate(config_cases.corrupted(raw, 4)):
        runner.judge(case, tmp_path / str(index))
