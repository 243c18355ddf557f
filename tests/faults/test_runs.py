"""Run folders with a bad file in them."""

import pytest

from tests.faults import run_cases


@pytest.mark.sweep(fast=12)
@pytest.mark.parametrize('case', [*run_cases.cases()], ids=lambda one: one.id)
def test_bad_run_folders(judge, case):
    judge(case)


@pytest.mark.slow
@pytest.mark.parametrize('file', run_cases.FILES[:4])
def test_changed_run_folders(runner, tmp_path, file):
    made = run_cases.changed(runner.originals, file, 7)
    for index, case in enumerate(made):
        runner.judge(case, tmp_path / str(index))
