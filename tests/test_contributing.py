"""The files that CONTRIBUTING.md and ARCHITECTURE.md name exist."""

import re

import pytest

from tests.conftest import REPOSITORY
from tests.test_layers import layers

PATH = re.compile(r'`([\w./-]+/[\w./-]*\w(?:\.\w+)?/?)`')
JOBS = {'command': 3, 'mechanism': 5, 'layout': 3, 'report': 2, 'fault': 2}
"""Words of the five headings, and how many files each job may touch."""


@pytest.mark.parametrize('page', ['CONTRIBUTING.md', 'ARCHITECTURE.md'])
def test_the_files_exist(page):
    text = (REPOSITORY / page).read_text('utf-8')
    paths = [path for path in PATH.findall(text) if 'NAME' not in path]
    assert len(paths) > 8
    roots = (REPOSITORY, REPOSITORY / 'eca_mmdet')
    missing = [p for p in paths if not any((root / p).exists() for root in roots)]
    assert not missing
    for folder in (p for p in PATH.findall(text) if 'NAME' in p):
        assert (REPOSITORY / folder).parent.is_dir()


def test_each_job_touches_few_files():
    text = (REPOSITORY / 'CONTRIBUTING.md').read_text('utf-8')
    jobs = text.split('## Five jobs')[1].split('\n## ')[0].split('\n### ')[1:]
    assert len(jobs) == len(JOBS)
    for job, (word, most) in zip(jobs, JOBS.items(), strict=True):
        assert word in job.splitlines()[0]
        assert 0 < len(re.findall(r'^\d+\. ', job, re.MULTILINE)) <= most


def test_the_layers_are_those_of_the_linter():
    text = (REPOSITORY / 'ARCHITECTURE.md').read_text('utf-8')
    rule = text.split('## The rule')[1].split('```')[1].strip().splitlines()
    drawn = {
        name.strip(): height
        for height, names in enumerate(reversed(rule))
        for name in names.split(',')
    }
    assert drawn == layers()
