import shutil

import pytest

from tests.faults.judge import Runner


@pytest.fixture(scope='session')
def runner(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp('faults'))
    yield runner
    runner.close()


@pytest.fixture
def judge(runner, tmp_path):
    """Run a case; its files go when it was right."""

    def call(case):
        answer = runner.judge(case, tmp_path / 'case')
        shutil.rmtree(tmp_path / 'case')
        return answer

    return call
