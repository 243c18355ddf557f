"""CocoIndexDataset gives what mmdet's CocoDataset gives, value for value."""

import contextlib
import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.support.broken_data import sound
from tests.support.coco_contents import CONTENTS

pytestmark = [
    pytest.mark.openmmlab,
    pytest.mark.usefixtures('mmdet_ready'),
    pytest.mark.filterwarnings('ignore:.*ersion of multiprocessing'),
]


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return tmp_path_factory.mktemp('dataset') / 'file.json'


def build(kind, file, content=None, **options):
    """Return a dataset, or the error that it raises."""
    from mmdet.registry import DATASETS

    if content is not None:
        file.write_text(json.dumps(content))
    options = dict(metainfo=dict(classes=('dog', 'cat')), pipeline=[]) | options
    options = dict(data_prefix=dict(img='images/')) | options
    try:
        with contextlib.redirect_stdout(None):
            return DATASETS.build(dict(type=kind, ann_file=str(file), **options))
    except Exception as error:
        return error


def both(file, content=None, **options):
    kinds = ('CocoDataset', 'CocoIndexDataset')
    return [build(kind, file, content, **options) for kind in kinds]


def typed(value):
    """Return a value with the types of everything in it."""
    if isinstance(value, dict):
        return [(key, typed(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return (type(value), [typed(one) for one in value])
    return (type(value), repr(value))


def require_same(stock, ours):
    if isinstance(stock, Exception):
        assert type(ours) is type(stock), ours
        return
    assert not isinstance(ours, Exception), ours
    assert type(ours).__name__ == 'CocoIndexDataset'
    assert len(ours) == len(stock)
    assert typed(ours.metainfo) == typed(stock.metainfo)
    for name in ('cat_ids', 'cat2label', 'ann_file', 'data_prefix'):
        assert typed(getattr(ours, name)) == typed(getattr(stock, name))
    maps = [
        {key: typed(ids) for key, ids in one.cat_img_map.items() if ids}
        for one in (stock, ours)
    ]
    assert maps[0] == maps[1]
    for at in range(1 - len(stock), len(stock)):
        assert typed(ours.get_data_info(at)) == typed(stock.get_data_info(at))
        assert typed(ours.get_cat_ids(at)) == typed(stock.get_cat_ids(at))
        assert typed(ours[at]) == typed(stock[at])
    if not stock.serialize_data:
        assert typed(list(ours.data_list)) == typed(stock.data_list)
        assert typed(list(ours.data_list[1:])) == typed(stock.data_list[1:])


def completed(content):
    """Give every entry what CocoDataset needs, and annotations an id each."""
    content = copy.deepcopy(content)
    for image in content['images']:
        for key in ('width', 'height'):
            image[key] = 32 if image.get(key) is None else image[key]
    for at, one in enumerate(content.get('annotations', [])):
        one['id'] = 7 * at
        if one.get('bbox') is None:
            one['bbox'] = [3, 4, 10, 11.5]
        one.setdefault('area', 100)
    return content


OPTIONS = st.fixed_dictionaries(
    {
        'metainfo': st.sampled_from(
            [{}, *({'classes': c} for c in (('dog', 'Cat'), ['é'], (), ('no', 'cat')))]
        ),
        'filter_cfg': st.sampled_from(
            [
                None,
                {},
                {'filter_empty_gt': True},
                {'filter_empty_gt': True, 'min_size': 40},
            ]
        ),
        'test_mode': st.booleans(),
        'serialize_data': st.booleans(),
    },
    optional={
        'indices': st.sampled_from([1, -1, 0, [0], [0, 0], [-1, 0]]),
        'data_prefix': st.just({'img': '', 'seg': 'seg/'}),
        'data_root': st.just('root'),
        'return_classes': st.just(True),
        'max_refetch': st.just(1),
    },
)


@pytest.mark.parametrize('complete', [True, False])
@settings(max_examples=60, deadline=None)
@given(content=CONTENTS, options=OPTIONS, data=st.data())
def test_samples_are_those_of_mmdet(file, complete, content, options, data):
    if complete:
        content = completed(content)
    stock, ours = both(file, content, **options)
    require_same(stock, ours)
    if isinstance(stock, Exception) or len(stock) < 2:
        return
    some = data.draw(st.sampled_from([1, -1, [0], [1, 0, 1]]))
    require_same(stock.get_subset(some), ours.get_subset(some))
    pickled = pickle.loads(pickle.dumps(ours))
    require_same(stock, pickled)
    require_same(stock, copy.deepcopy(ours))
    stock.get_subset_(some)
    ours.get_subset_(some)
    require_same(stock, ours)


def test_the_index_is_used(file):
    from eca_mmdet.datasets.index import Entries

    _, ours = both(file, sound())
    assert isinstance(ours.data_list, Entries)
    assert ours.get_data_info(1)['instances'][0]['mask'] == [[2, 3, 10, 3, 10, 9, 2, 9]]
    refused = sound()
    refused['images'][0]['id'] = 10.0
    _, ours = both(file, refused)
    assert not isinstance(ours.data_list, Entries)


@pytest.mark.parametrize(
    'edit',
    [
        lambda content: content['images'][0].update(id=10.0),
        lambda content: content['annotations'][0].update(id='a'),
        lambda content: content['annotations'][0].update(iscrowd=2),
        lambda content: content['annotations'][1].update(id=1),
        lambda content: content['annotations'][1].pop('id'),
        lambda content: content['annotations'][1].update(area=float('nan')),
        lambda content: content['annotations'][1].update(bbox=[1, 2, 3]),
        lambda content: content['images'][1].pop('height'),
        lambda content: content['images'][1].update(width=None),
        lambda content: content.update(images=[]),
        lambda content: content.pop('categories'),
    ],
)
def test_files_that_the_index_refuses_are_read_by_mmdet(file, edit):
    content = sound()
    edit(content)
    stock, ours = both(file, content)
    require_same(stock, ours)
    if isinstance(stock, Exception):
        assert str(ours) == str(stock)
    else:
        require_same(stock.get_subset([1, 0]), ours.get_subset([1, 0]))


def test_a_config_that_fits_no_image_fails_at_once(file):
    for kind in ('CocoDataset', 'CocoIndexDataset'):
        assert isinstance(build(kind, file, sound(), data_prefix={}), KeyError)


@pytest.mark.parametrize(
    'backend, lazy', [(None, True), ({'backend': 'local'}, True), ({'a': 1}, False)]
)
def test_only_local_files_have_an_index(file, backend, lazy, monkeypatch):
    from eca_mmdet.engine import coco_dataset

    used = []
    monkeypatch.setattr(
        coco_dataset, 'read_index', lambda path: used.append(path) or None
    )
    both(file, sound(), backend_args=backend)
    assert bool(used) == lazy


def test_proposals_are_added_to_every_image(file, tmp_path):
    path = tmp_path / 'proposals.pkl'
    table = {'images/é.png': [0], 'images/b.jpg': [1], 'sub/c.png': [2]}
    path.write_bytes(pickle.dumps(table))
    stock, ours = both(file, sound(), proposal_file=str(path))
    assert [ours[at]['proposals'] for at in range(3)] == [[0], [1], [2]]
    require_same(stock, ours)


def wrapped(kind, file):
    part = dict(
        type=kind,
        ann_file=str(file),
        metainfo=dict(classes=('cat', 'dog')),
        data_prefix=dict(img='i/'),
    )
    from mmdet.registry import DATASETS

    return [
        DATASETS.build(dict(type='ConcatDataset', datasets=[part, part])),
        DATASETS.build(dict(type='RepeatDataset', times=3, dataset=part)),
        DATASETS.build(
            dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=part)
        ),
    ]


def test_wrappers_and_samplers_by_aspect_ratio(file):
    from mmdet.datasets.samplers import AspectRatioBatchSampler, ClassAwareSampler
    from mmengine.dataset import DefaultSampler

    content = sound()
    content['images'][1] |= {'width': 30, 'height': 40}
    content['annotations'][3]['category_id'] = 1
    content['annotations'][1]['category_id'] = 1
    file.write_text(json.dumps(content))
    pairs = zip(
        wrapped('CocoDataset', file), wrapped('CocoIndexDataset', file), strict=True
    )
    for stock, ours in pairs:
        assert len(stock) == len(ours) >= 3
        assert typed([*map(stock.get_data_info, range(len(stock)))]) == typed(
            [*map(ours.get_data_info, range(len(ours)))]
        )
        batches = [
            list(AspectRatioBatchSampler(DefaultSampler(one, seed=3), 2))
            for one in (stock, ours)
        ]
        assert batches[0] == batches[1]
    stock, ours = both(file)
    assert ClassAwareSampler(ours, 1).cat_dict == ClassAwareSampler(stock, 1).cat_dict


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_read_the_same_samples(file, method):
    stock, ours = both(file, sound(), serialize_data=False)
    loader = DataLoader(
        ours,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context=method,
    )
    found = [sample for (sample,) in loader]
    assert typed(found) == typed([*map(stock.get_data_info, range(len(stock)))])


def test_real_annotations(coco_tiny):
    files = sorted(coco_tiny.glob('**/*.json'))
    assert files
    for file in files:
        stock, ours = both(
            file, metainfo={}, filter_cfg=dict(filter_empty_gt=True, min_size=32)
        )
        require_same(stock, ours)


def test_a_subclass_may_parse_by_its_own_rules(file):
    from mmdet.registry import DATASETS

    from eca_mmdet.engine.coco_dataset import CocoIndexDataset

    class Own(CocoIndexDataset):
        def parse_data_info(self, raw_data_info):
            info = super().parse_data_info(raw_data_info)
            info['license'] = raw_data_info['raw_img_info']['license']
            info['by'] = [one['score_by'] for one in raw_data_info['raw_ann_info']]
            return info

    file.write_text(json.dumps(sound()))
    options = dict(ann_file=str(file), pipeline=[], data_prefix=dict(img=''))
    own = DATASETS.build(dict(type=Own, **options))
    assert own.get_data_info(0)['license'] == 3
    assert own[1]['by'] == ['hand', 'hand']
    np.testing.assert_equal(
        [len(own.get_data_info(at)['by']) for at in range(3)], [1, 2, 1]
    )
