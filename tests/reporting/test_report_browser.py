"""The page in a real browser: light and dark, wide and narrow, on paper."""

import json

import cv2
import numpy as np
import pytest

from eca_mmdet.reporting.page import render_page, report
from eca_mmdet.reporting.run import read_run
from tests.support.browser import Browser
from tests.support.report_runs import NASTY, STAMP, Page, write_run

CHARTS = """
return specs.map((spec) => {
  const canvas = document.querySelector(`canvas[data-chart="${spec}"]`);
  const chart = Chart.getChart(canvas);
  const box = canvas.getBoundingClientRect();
  return {
    id: spec, width: box.width, height: box.height, labels: chart.data.labels,
    sets: chart.data.datasets.map((set) => ({
      label: set.label, data: set.data,
      colour: set.borderColor || set.backgroundColor,
    })),
  };
});
""".replace('specs', 'arguments[0]')


@pytest.fixture(scope='module')
def browser():
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture(scope='module')
def pages(shapes, tmp_path_factory):
    """Pages of one run and of two, with pictures; and the metrics.json of the first."""
    root = tmp_path_factory.mktemp('pages')
    config = f'test_dataloader = dict(dataset=dict(data_root={str(shapes)!r}, '
    config += "ann_file='annotations/val.json', data_prefix=dict(img='val/')))\n"
    record = write_run(root / 'first', shapes, 0, config)
    write_run(root / 'second', shapes, 1, config)
    for name, folders in (('one', ['first']), ('two', ['first', 'second'])):
        paths = [root / folder for folder in folders]
        report(paths, root / f'{name}.html', model=False)
    return root, record


def drawn(browser, page):
    """What Chart.js holds of every chart."""
    specs = list(Page(page.read_text()).specs)
    return {one['id']: one for one in browser.run(CHARTS, specs)}


def luminance(colour):
    numbers = colour[colour.index('(') + 1 : colour.index(')')].split(',')[:3]
    parts = [float(one) / 255 for one in numbers]
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize('name', ['one', 'two'])
def test_every_chart_is_drawn_with_the_pages_values(browser, pages, name):
    page = pages[0] / f'{name}.html'
    browser.open(page)
    specs = Page(page.read_text()).specs
    charts = drawn(browser, page)
    assert len(charts) == len(specs) > 15
    for key, spec in specs.items():
        chart = charts[key]
        assert chart['width'] > 250 and chart['height'] > 60, key
        sets = [one for one in chart['sets'] if one['label']]
        if spec['kind'] == 'bar':
            assert [one['data'] for one in sets] == [b['values'] for b in spec['bars']]
        else:
            assert [[[p['x'], p['y']] for p in one['data']] for one in sets] == [
                line['points'] for line in spec['lines']
            ]
    browser.screenshot(f'report-{name}-1280.png')


def test_the_tables_that_are_shown_are_metrics_json(browser, pages):
    root, record = pages
    browser.open(root / 'one.html')
    for task, result in record['results'].items():
        cells = browser.run(
            'return [...document.querySelectorAll(`table.results[data-task=${'
            'arguments[0]}] tbody td`)].map((cell) => cell.innerText)',
            task,
        )
        expected = result['metrics'].values()
        assert cells == ['n/a' if v is None else f'{100 * v:.1f}' for v in expected]


HOVER = """
const chart = Chart.getChart(document.querySelector('canvas[data-chart=train-loss]'));
const point = chart.getDatasetMeta(0).data[2];
const box = chart.canvas.getBoundingClientRect();
chart.canvas.dispatchEvent(new MouseEvent('mousemove', {
  clientX: box.left + point.x, clientY: box.top + point.y, bubbles: true,
}));
return new Promise((done) => requestAnimationFrame(() => done([
  chart.tooltip.opacity, chart.tooltip.title, chart.tooltip.body.map((b) => b.lines),
])));
"""


def test_hovering_shows_the_value(browser, pages):
    page = pages[0] / 'two.html'
    browser.open(page)
    opacity, title, body = browser.run(HOVER)
    lines = Page(page.read_text()).specs['train-loss']['lines']
    x, y = lines[0]['points'][2]
    assert opacity == 1 and title == [f'iteration {x:g}']
    assert [f'first: {float(f"{y:.5g}"):g}'] in body
    assert any(one[0].startswith('second: ') for one in body)


GLOSS = HOVER.replace('train-loss', 'errors-bbox').replace('data[2]', 'data[1]')


def test_hovering_over_an_error_says_what_it_is(browser, pages):
    browser.open(pages[0] / 'one.html')
    opacity, title, _ = browser.run(GLOSS)
    assert (opacity, title) == (1, ['Loc: right class, poorly localized'])


def test_a_click_enlarges_a_picture_and_another_closes_it(browser, pages):
    browser.open(pages[0] / 'one.html')
    width = 'return document.querySelector(arguments[0]).getBoundingClientRect().width'
    shown = "return document.querySelector('#zoom').open"
    small = browser.run(width, '.pair img')
    assert not browser.run(shown)
    browser.run("document.querySelector('.pair img').click()")
    assert browser.run(shown)
    assert browser.run(width, '#zoom .pair img') > 2 * small
    sources = 'return [...document.querySelectorAll(arguments[0])].map((i) => i.src)'
    assert browser.run(sources, '#zoom img') == browser.run(sources, 'main img')[:2]
    browser.run("document.querySelector('#zoom img').click()")
    assert not browser.run(shown)


def test_whole_numbers_are_shown_whole(browser, shapes, tmp_path):
    log = [
        {'loss': 1.5, 'memory': 10_432 + step, 'iter': step, 'step': step}
        for step in (10_000, 20_001, 29_318, 39_000)
    ]
    write_run(tmp_path / 'run', shapes, log=log)
    page = tmp_path / 'page.html'
    page.write_text(render_page(read_run(tmp_path / 'run', 'run')))
    browser.open(page)
    opacity, title, body = browser.run(HOVER.replace('train-loss', 'train-memory'))
    assert (opacity, title, body) == (1, ['iteration 29318'], [['run: 39750']])


def test_many_classes_and_runs_are_drawn(browser, shapes, tmp_path):
    """A canvas that is too high stays empty without a word."""
    runs = []
    for name in 'abcdefgh':
        record = write_run(tmp_path / name, shapes)
        record['results']['bbox']['classes'] = [
            {'id': n, 'name': f'c{n}', 'objects': n, 'metrics': {'AP': 0.5}}
            for n in range(1203)
        ]
        (tmp_path / name / STAMP / 'metrics.json').write_text(json.dumps(record))
        runs += read_run(tmp_path / name, name)
    page = tmp_path / 'page.html'
    page.write_text(render_page(runs))
    browser.open(page)
    painted = browser.run(
        'const c = document.querySelector("canvas[data-chart=classes-bbox]");'
        'const d = c.getContext("2d").getImageData(0, c.height / 2, c.width, 9).data;'
        'return [c.height, d.filter((v) => v > 0).length]'
    )
    assert painted[0] < 30_000 and painted[1] > 1000


def test_dark_mode_has_colours_of_its_own_that_can_be_read(browser, pages):
    page = pages[0] / 'two.html'
    style = 'return getComputedStyle(document.body)[arguments[0]]'
    found = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        ground, ink = (browser.run(style, k) for k in ('backgroundColor', 'color'))
        assert contrast(ground, ink) > 12
        colours = [one['colour'] for one in drawn(browser, page)['train-loss']['sets']]
        found[dark] = ground, colours
        for colour in colours:  # 3 is WCAG's least for parts of a picture
            rgb = ','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
            assert contrast(ground, f'({rgb})') > 3
        for muted in ('.lead', 'dt', '.tile'):
            text = browser.run(
                'return getComputedStyle(document.querySelector(arguments[0])).color',
                muted,
            )
            assert contrast(ground, text) > 4.5
    assert luminance(found[False][0]) > 0.9 > 0.1 > luminance(found[True][0])
    assert found[False][1] != found[True][1]
    browser.show(dark=False)  # while it is open
    colours = [one['colour'] for one in drawn(browser, page)['train-loss']['sets']]
    assert colours == found[False][1]
    browser.open(page, dark=True)
    browser.screenshot('report-two-dark.png', dark=True)


@pytest.mark.parametrize('name', ['one', 'two'])
@pytest.mark.parametrize('width', [400, 768])
def test_nothing_is_wider_than_a_narrow_window(browser, pages, name, width):
    page = pages[0] / f'{name}.html'
    browser.open(page, width)
    browser.run(
        'document.querySelectorAll("details").forEach((d) => { d.open = true })'
    )
    assert browser.run('return document.documentElement.scrollWidth') <= width
    for chart in drawn(browser, page).values():
        assert 200 < chart['width'] <= width and chart['height'] > 60
    small = browser.run(
        'return [...document.querySelectorAll("p, td, th, dd, figcaption, li")]'
        '.filter((e) => parseFloat(getComputedStyle(e).fontSize) < 10).length'
    )
    assert small == 0
    browser.screenshot(f'report-{name}-{width}.png', width)


def test_on_paper_it_is_light_and_whole(browser, pages):
    page = pages[0] / 'two.html'
    browser.open(page, dark=True)
    browser.show(dark=True, media='print')
    ground = browser.run('return getComputedStyle(document.body).backgroundColor')
    assert luminance(ground) > 0.9
    light = [one['colour'] for one in drawn(browser, page)['train-loss']['sets']]
    missing = 'return document.getElementById("missing").open'
    assert not browser.run(missing)
    browser.run('dispatchEvent(new Event("beforeprint"))')
    assert browser.run(missing)
    browser.open(page, dark=False)
    assert light == [
        one['colour'] for one in drawn(browser, page)['train-loss']['sets']
    ]


def test_pictures_and_charts_have_something_in_them(browser, pages):
    browser.open(pages[0] / 'one.html')
    sizes = browser.run(
        'return [...document.images].map((i) => [i.complete, i.naturalWidth])'
    )
    assert len(sizes) >= 4 and all(done and width == 320 for done, width in sizes)
    picture = cv2.imread(str(browser.screenshot('report-one-1280.png')))
    for name in ('train-loss', 'pr-segm', 'classes-bbox', 'calibration-bbox'):
        x, y, w, h = browser.run(
            'const b = document.getElementById(arguments[0]).getBoundingClientRect();'
            'return [b.x, b.y + scrollY, b.width, b.height]',
            name,
        )
        part = picture[int(y) : int(y + h), int(x) : int(x + w)]
        blue = np.abs(part.astype(int) - (178, 114, 0)).max(2) < 40  # BGR of --c0
        assert blue.sum() > 50, name


def test_names_from_files_run_nothing(browser, shapes, tmp_path):
    write_run(tmp_path / 'run', shapes, name=NASTY)
    path = tmp_path / 'run' / STAMP / 'metrics.json'
    path.write_text(path.read_text().replace('circle', json.dumps(NASTY)[1:-1]))
    page = tmp_path / 'page.html'
    page.write_text(render_page(read_run(tmp_path / 'run', NASTY)))
    browser.open(page)
    assert browser.run('return document.images.length') == 0
    assert NASTY in browser.run('return document.querySelector("h1").innerText')
    labels = drawn(browser, page)['classes-bbox']['labels']
    assert [one for one in labels if one.startswith(NASTY)]


def test_the_page_fetches_nothing(browser, pages):
    browser.open(pages[0] / 'two.html')
    loaded = browser.run(
        'return performance.getEntriesByType("resource").map((one) => one.name)'
    )
    assert [one for one in loaded if not one.startswith('data:')] == []
    refused = browser.run(
        'return fetch("file:///etc/hostname").then(() => "read", () => "refused")'
    )
    assert refused == 'refused'
