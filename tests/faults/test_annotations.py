"""Bad annotation files in every command that reads one."""

import pytest

from tests.faults import json_cases

CHANGED = 48
"""Files with one part changed; and three eighths as many with damaged bytes."""


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize(
    'case', [*json_cases.annotation_cases()], ids=lambda one: one.id
)
def test_bad_annotations(judge, case):
    judge(case)


@pytest.mark.slow
@pytest.mark.parametrize(
    'case', [*json_cases.changed_annotations(CHANGED)], ids=lambda one: one.id
)
def test_changed_annotations(judge, case):
    judge(case)
