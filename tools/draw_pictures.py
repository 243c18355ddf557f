"""Draw the pictures of the README and of docs/report.md anew, from runs of the demo.

    eca-mmdet demo --out runs/eca && eca-mmdet demo --attention none --out runs/plain
    python tools/draw_pictures.py runs/eca runs/plain

Writes ``report.png``, ``report_two_runs.png``, ``report_narrow.png`` (400 px, dark) and
``predictions.jpg``. Needs chromium, its chromedriver and selenium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
COLOURS = 128
"""Of the written pictures, so that they stay small."""

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


def main(argv: list[str] | None = None) -> int:
    """Make the pages and take their pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs=2, type=Path, help='folders of eca-mmdet demo')
    parser.add_argument('--out', type=Path, default=REPOSITORY / 'docs' / 'images')
    args = parser.parse_args(argv)
    missing = missing_parts()
    if missing:
        print(f'not installed: {", ".join(missing)}', file=sys.stderr)
        return 2
    from eca_mmdet.reporting.page import report

    driver = start_browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            one, two = Path(folder) / 'one.html', Path(folder) / 'two.html'
            report(args.runs[:1], one)
            report(args.runs, two)
            photograph(driver, one, args.out / 'report.png', 1280, 2150)
            photograph(driver, two, args.out / 'report_two_runs.png', 1280, 1560)
            narrow = args.out / 'report_narrow.png'
            photograph(driver, one, narrow, 400, 1560, dark=True)
    finally:
        driver.quit()
    target = args.out / 'predictions.jpg'
    with Image.open(args.runs[0] / 'predictions.png') as image:
        photo = image.convert('RGB')
    photo.thumbnail((1280, 1280))
    photo.save(target, quality=80)
    print(f'{target}: {target.stat().st_size // 1000} kB')
    return 0


def missing_parts() -> list[str]:
    """Return what a browser needs and this machine lacks."""
    missing = [] if any(map(shutil.which, BROWSERS)) else [BROWSERS[0]]
    missing += [] if shutil.which('chromedriver') else ['chromedriver']
    try:
        import selenium  # noqa: F401
    except ImportError:
        missing.append('selenium')
    return missing


def start_browser() -> Any:
    """Return a driver of a headless browser; its log keeps what pages report."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for switch in _SWITCHES:
        options.add_argument(switch)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    service = webdriver.ChromeService(shutil.which('chromedriver'))
    return webdriver.Chrome(options, service)


def set_window(driver: Any, width: int, height: int, dark: bool, media: str) -> None:
    """Set size in pixels, colour scheme and medium ('' or 'print')."""
    scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
    tell = driver.execute_cdp_cmd
    tell('Emulation.setEmulatedMedia', {'media': media, 'features': [scheme]})
    size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
    tell('Emulation.setDeviceMetricsOverride', size)


def photograph(
    driver: Any, page: Path, picture: Path, width: int, height: int, dark: bool = False
) -> None:
    """Write a picture of the top of a page."""
    set_window(driver, width, height, dark, '')
    driver.get(page.as_uri())
    picture.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(picture))
    shrink(picture)


def shrink(picture: Path) -> None:
    """Write a picture anew in few colours."""
    with Image.open(picture) as image:
        plain = image.convert('RGB')
    plain.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f'{picture}: {picture.stat().st_size // 1000} kB')


if __name__ == '__main__':
    sys.exit(main())
