"""Run folders for the tests of the page, and the page taken apart again."""

import json
from html.parser import HTMLParser

import numpy as np

from eca_mmdet.datasets.detections import detections_of
from eca_mmdet.datasets.ground_truth import ground_truth, read_ground_truth
from eca_mmdet.evaluation.coco_eval import evaluate, make_record
from eca_mmdet.evaluation.error_analysis import analyze
from eca_mmdet.reporting.page import render_page
from eca_mmdet.reporting.run import read_run
from eca_mmdet.utils.io import describe_file

STAMP = '20260102_030405'
NASTY = '</script><img src=x onerror=alert(1)>&"\'{{ 7*7 }}'
"""A class name that would be a script if it were not escaped."""
STEPS = tuple(range(10, 70, 10))


def losses(seed):
    """Lines as mmengine logs them."""
    draw = np.random.RandomState(seed)
    lines = []
    for step in STEPS:
        parts = {'loss_cls': draw.rand() / step, 'loss_bbox': draw.rand()}
        line = {'lr': 0.01 / step, 'data_time': 0.01, 'grad_norm': 5 + draw.rand()}
        line |= {**parts, 'loss': sum(parts.values()), 'time': 0.2 + draw.rand() / 10}
        lines.append({**line, 'iter': step, 'memory': 900 + step, 'step': step})
        if step % 20 == 0:
            values = {f'coco/bbox_{k}': draw.rand() for k in ('AP', 'AP50', 'AP75')}
            lines.append({**values, 'time': 0.1, 'data_time': 0.0, 'step': step})
    return lines


def detections(content, seed):
    """The objects again, moved a little; some of another class, and some too many."""
    draw = np.random.RandomState(seed)
    ids = [one['id'] for one in content['categories']]
    found = []
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        box = (np.array([x, y, w, h]) + draw.uniform(-2, 2, 4)).clip(1).tolist()
        kind = one['category_id'] if draw.rand() < 0.8 else int(draw.choice(ids))
        found.append(
            {
                'image_id': one['image_id'],
                'category_id': kind,
                'bbox': box,
                'score': float(draw.uniform(0.2, 1)),
                'segmentation': rle_of(one, content, box),
            }
        )
        if draw.rand() < 0.3:
            found.append({**found[-1], 'bbox': [1, 1, 9, 9], 'score': 0.4})
    return found


def rle_of(annotation, content, box):
    from pycocotools import mask as api

    [image] = [i for i in content['images'] if i['id'] == annotation['image_id']]
    mask = np.zeros((image['height'], image['width']), np.uint8, order='F')
    x, y, w, h = (int(v) for v in box)
    mask[y : y + h, x : x + w] = 1
    code = api.encode(mask)
    return {'size': code['size'], 'counts': code['counts'].decode()}


def measured(annotations, content, seed, tasks=('bbox', 'segm'), **more):
    """A metrics.json of made-up detections."""
    truth = ground_truth(content, str(annotations))
    found = detections_of(detections(content, seed), truth, 'test', tasks)
    results = [evaluate(truth, found[task], task) for task in tasks]
    record = make_record(
        results,
        {'file': str(annotations), 'sha256': read_ground_truth(annotations).sha256},
        'hotcoco',
        **more,
    )
    record['analysis'] = [{task: analyze(truth, found[task], task) for task in tasks}]
    return record


def write_run(folder, data, seed=0, config='', checkpoint=None, name=None, log=None):
    """A work_dir like mmengine's, with the metrics.json of an evaluation."""
    annotations = data / 'annotations' / 'val.json'
    content = json.loads(annotations.read_text())
    inner = folder / STAMP
    (inner / 'vis_data').mkdir(parents=True)
    lines = losses(seed) if log is None else log
    (inner / 'vis_data' / 'scalars.json').write_text(
        ''.join(json.dumps(line) + '\n' for line in lines)
    )
    (inner / f'{STAMP}.log').write_text(
        '2026/01/02 03:04:05 - mmengine - INFO - \n-----\nSystem environment:\n'
        '    GPU 0: Test Board 3000\n    GCC: 12.2\n\n'
        'Runtime environment:\n    seed: 0\n'
    )
    if config:
        (inner / 'vis_data' / 'config.py').write_text(config)
    more = {'config': name, 'iter': STEPS[-1], 'notes': ['one note']}
    if checkpoint is not None:
        more['checkpoint'] = describe_file(checkpoint)
    record = measured(annotations, content, seed, **more)
    (inner / 'metrics.json').write_text(json.dumps(record))
    return record


class Page(HTMLParser):
    """Tables, texts and chart specifications of a page.

    Attributes:
        tables: (attributes of the table, its caption, rows of cell texts).
        specs: the charts' specifications by id.
        images: sources of the pictures.
    """

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.texts, self.links = [], [], [], []
        self._inside = []
        self._json = None
        self.specs = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == 'table':
            self.tables.append((attributes, [''], []))
        elif tag == 'tr':
            self.tables[-1][2].append([])
        elif tag in ('th', 'td'):
            self.tables[-1][2][-1].append('')
        elif tag == 'img':
            self.images.append(attributes)
        for key in ('src', 'href'):
            if attributes.get(key):
                self.links.append(attributes[key])
        if tag == 'script' and attributes.get('id') == 'chart-specs':
            self._json = ''
        if tag not in ('meta', 'link', 'img', 'br'):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag == 'script' and self._json is not None:
            self.specs = {one['id']: one for one in json.loads(self._json)}
            self._json = None
        assert self._inside.pop() == tag, f'</{tag}> closes nothing'

    def handle_data(self, data):
        if self._json is not None:
            self._json += data
            return
        if self._inside[-1:] and self._inside[-1] in ('script', 'style'):
            return
        text = data.strip()
        if text:
            self.texts.append(text)
        if text and 'table' in self._inside:
            attributes, caption, rows = self.tables[-1]
            if 'caption' in self._inside:
                caption[0] += text
            elif rows and rows[-1]:
                rows[-1][-1] += text

    def table(self, **wanted):
        """The only table with these attributes; class_ is a word of its class."""
        word = wanted.pop('class_', '')
        [found] = [
            rows
            for attributes, _, rows in self.tables
            if word in attributes.get('class', '').split()
            and all(
                attributes.get(f'data-{key}') == value for key, value in wanted.items()
            )
        ]
        return found

    def results(self, task='bbox'):
        """The table of results: the columns of each row by its name."""
        (_, *names), *rows = self.table(class_='results', task=task)
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}

    def runs(self, task='bbox'):
        """The names of the rows that were measured."""
        others = ('difference', '95% CI')
        return [one for one in self.results(task) if not one.startswith(others)]


def page_of(*folders):
    """The page of some runs, and the runs."""
    runs = [run for folder in folders for run in read_run(folder, folder.name)]
    return Page(render_page(runs)), runs
