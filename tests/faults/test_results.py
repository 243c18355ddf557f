"""Bad result files in ``eval``."""

import json

import pytest

from tests.faults import json_cases


@pytest.fixture(scope='module')
def found(runner):
    return json.loads((runner.originals / 'masks.json').read_text())


@pytest.mark.slow
@pytest.mark.parametrize('case', [*json_cases.result_cases()], ids=lambda one: one.id)
def test_bad_results(judge, case):
    judge(case)


@pytest.mark.slow
def test_encodings(runner, tmp_path, found):
    for index, case in enumerate(json_cases.encoded_results(found)):
        runner.judge(case, tmp_path / str(index))


@pytest.mark.slow
@pytest.mark.parametrize('part', range(6))
def test_changed_results(runner, tmp_path, found, part):
    cases = [*json_cases.changed_results(found, 60)]
    for index, case in enumerate(cases[part::6]):
        runner.judge(case, tmp_path / str(index))


@pytest.mark.slow
@pytest.mark.parametrize('words', [json_cases.RESULTS, json_cases.SEGM], ids=len)
def test_masks_that_lie(runner, tmp_path, found, words):
    for name, content in json_cases.masks(found).items():
        # With boxes in every entry a mask is not needed; some are only strange.
        case = json_cases.results_case(
            f'masks-{name}', json.dumps(content), words, codes=(0, 2)
        )
        runner.judge(case, tmp_path / name)
