"""The commands of docs/tutorial.md, each run as it stands there."""

import importlib
import json
import re

import numpy as np
import pytest

from tests.conftest import REPOSITORY

EPOCHS = '24'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')
    return importlib.import_module('update_tutorial')


@pytest.mark.slow
def test_the_ten_commands(tool, command, tmp_path, monkeypatch, mmdet_ready):
    """On fewer images and epochs than there; in one process."""
    monkeypatch.chdir(tmp_path)
    text = tool.TUTORIAL.read_text()
    steps = list(tool.read_steps(text))
    ours = [step for step in steps if step.words[0] == 'eca-mmdet']
    assert len(ours) == 11 == 1 + len(re.findall(r'^## \d+\. ', text, re.MULTILINE))
    assert all(text[slice(*step.span)] for step in steps)
    assert [step.words for step in steps if step not in ours] == [['cat', 'shapes.py']]
    assert ours[0].words[1:] == ['demo', '--data-only', 'shapes']
    ours[0].words.extend(['--quick'])
    for step in ours:
        words = [word.replace(f'epoch_{EPOCHS}', 'epoch_3') for word in step.words[1:]]
        words = ['3' if word == EPOCHS else word for word in words]
        code, out, err = command(*words)
        assert code == 0, (words, err)
        assert 'Traceback' not in out + err
        if step.target:
            (tmp_path / step.target).write_text(out)
    tested = json.loads(next(tmp_path.glob('run/*/metrics.json')).read_text())
    evaluated = json.loads((tmp_path / 'errors' / 'metrics.json').read_text())
    assert tested and evaluated
    of = [
        json.loads((tmp_path / one / 'predictions.json').read_text())['annotations']
        for one in ('pictures', 'exported')
    ]
    scores = [np.array([one['score'] for one in each]) for each in of]
    assert scores[0].shape == scores[1].shape
    np.testing.assert_allclose(*scores, atol=1e-3)
    (program,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    scope = {}
    exec(compile(program, 'tutorial', 'exec'), scope)
    above = scope['found'].above(0.3)
    np.testing.assert_allclose(above.scores, scores[1], atol=1e-6)


def test_output_that_is_shown(tool):
    text = '<!-- 2 lines from X -->\n```console\n$ a b \\\n  c > d\nold\n```\n'
    (step,) = tool.read_steps(text)
    assert (step.words, step.target) == (['a', 'b', 'c'], 'd')
    assert text[slice(*step.span)] == 'old\n'
    lines = ['X 1', '2', 'X 3', '4', '5']
    assert tool.chosen(step, lines) == '...\nX 3\n4\n...\n'
    assert tool.chosen(step, ['X', '1']) == 'X\n1\n'
