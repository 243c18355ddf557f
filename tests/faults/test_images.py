"""Bad images and videos."""

import pytest

from tests.faults import image_cases


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize('case', [*image_cases.cases()], ids=lambda one: one.id)
def test_bad_images(judge, case):
    judge(case)


@pytest.mark.slow
def test_corrupted_images(runner, tmp_path):
    for index, case in enumerate(image_cases.corrupted(runner.originals, 2)):
        runner.judge(case, tmp_path / str(index))
