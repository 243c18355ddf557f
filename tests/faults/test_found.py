"""What a long run once found: it must not come back."""

import pytest

from tests.faults import kept


@pytest.mark.parametrize('case', [*kept.cases()], ids=lambda one: one.id)
def test_found(judge, case):
    judge(case)
