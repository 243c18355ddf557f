"""Headless Chromium for tests of the page."""

import os
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tools.draw_pictures import missing_parts, set_window, start_browser

ARTIFACTS = REPOSITORY / 'test-artifacts'
"""Screenshots of the last run of the tests; git ignores it."""


def start():
    """A driver of Debian's (or any) chromium; skips, with the reason, without one.

    Where ``ECA_MMDET_BROWSER`` is 'required', as in CI, a missing one is a failure.
    """
    missing = missing_parts()
    if missing:
        reason = f'no browser to test the page in: {", ".join(missing)} not installed'
        if os.environ.get('ECA_MMDET_BROWSER') == 'required':
            pytest.fail(reason)
        pytest.skip(f'{reason} (Debian: apt-get install chromium chromium-driver)')
    return start_browser()


class Browser:
    """A page in a window of some width, light or dark, or on paper."""

    def __init__(self):
        self.driver = start()

    def open(self, page: Path, width=1280, dark=False):
        """Load a file; its console must stay empty."""
        self.show(width, 900, dark)
        self.driver.get(page.resolve().as_uri())
        assert self.driver.get_log('browser') == []

    def show(self, width=1280, height=900, dark=False, media=''):
        set_window(self.driver, width, height, dark, media)

    def run(self, script, *words):
        return self.driver.execute_script(script, *words)

    def screenshot(self, name, width=1280, dark=False):
        """Keep a picture of the whole page; return its path."""
        ARTIFACTS.mkdir(exist_ok=True)
        height = self.run('return document.documentElement.scrollHeight')
        self.show(width, height, dark)
        path = ARTIFACTS / name
        self.driver.save_screenshot(str(path))
        return path
