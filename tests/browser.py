"""Headless Chromium for tests of the page."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ARTIFACTS = REPOSITORY / 'test-artifacts'
"""Screenshots of the last run of the tests; git ignores it."""

_SWITCHES = (
    '--headless=new',
    '--no-sandbox',  # as root, in a container
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--hide-scrollbars',
)


def start():
    """A driver of Debian's (or any) chromium; skips, with the reason, without one.

    Where ``ECA_MMDET_BROWSER`` is 'required', as in CI, a missing one is a failure.
    """
    names = ('chromium', 'chromium-browser', 'google-chrome')
    program = next((found for name in names if (found := shutil.which(name))), None)
    driver = shutil.which('chromedriver')
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None
    missing = [
        what
        for what, found in (
            ('chromium', program),
            ('chromedriver', driver),
            ('selenium', webdriver),
        )
        if not found
    ]
    if missing:
        reason = f'no browser to test the page in: {", ".join(missing)} not installed'
        if os.environ.get('ECA_MMDET_BROWSER') == 'required':
            pytest.fail(reason)
        pytest.skip(f'{reason} (Debian: apt-get install chromium chromium-driver)')
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in _SWITCHES:
        options.add_argument(switch)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


class Browser:
    """A page in a window of some width, light or dark."""

    def __init__(self):
        self.driver = start()

    def open(self, page: Path, width=1280, dark=False):
        """Load a file; its console must stay empty."""
        self._tell('Emulation.setEmulatedMedia', media='', features=_scheme(dark))
        self.resize(width, 900)
        self.driver.get(page.resolve().as_uri())
        assert self.driver.get_log('browser') == []

    def resize(self, width, height):
        self._tell(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script, *words):
        return self.driver.execute_script(script, *words)

    def print_media(self, on):
        media = 'print' if on else ''
        self._tell('Emulation.setEmulatedMedia', media=media, features=_scheme(False))

    def scheme(self, dark):
        self._tell('Emulation.setEmulatedMedia', media='', features=_scheme(dark))

    def screenshot(self, name, width=1280):
        """Keep a picture of the whole page; return its path."""
        ARTIFACTS.mkdir(exist_ok=True)
        height = self.run('return document.documentElement.scrollHeight')
        self.resize(width, height)
        path = ARTIFACTS / name
        self.driver.save_screenshot(str(path))
        return path

    def _tell(self, command, **words):
        self.driver.execute_cdp_cmd(command, words)


def _scheme(dark):
    value = 'dark' if dark else 'light'
    return [{'name': 'prefers-color-scheme', 'value': value}]
