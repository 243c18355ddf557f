"""The parsers, on whatever hypothesis thinks of: a value or a ``UserError``.

ECA_MMDET_FAULTS=10000 tries so many examples of each, new ones at every run.
"""

import json
import os
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eca_mmdet.utils.errors import UserError
from tests.support.broken_data import check_annotations, sound

EXAMPLES = int(os.environ.get('ECA_MMDET_FAULTS', '0'))
PROFILE = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, 2**31, 2**63, 10**400, -1, 1e308, float('nan')]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)


def survives(function, *arguments):
    """Call, and let nothing but a user's error through; None of that is too long."""
    try:
        return function(*arguments)
    except UserError as error:
        assert 0 < len(str(error)) < 2500
        return None


@PROFILE
@given(
    text=st.one_of(st.text(), JSON.map(json.dumps), st.from_regex(r'\{"[a-z]+": .*'))
)
def test_lines_of_json_logs(text):
    from eca_mmdet.reporting.logs import UnreadableLine, parse_line

    try:
        found = parse_line(text)
    except UnreadableLine as error:
        assert str(error)
        return
    assert all(type(one) is float for one in found.values.values())
    assert all(name.isprintable() for name in found.values)


def config_texts():
    values = st.recursive(
        st.sampled_from(
            ['1', '-1', "'x'", 'None', 'inf', 'f()', 'x.y', '1+1j', 'b"x"']
        ),
        lambda inner: st.one_of(
            inner.map('dict(a={})'.format),
            inner.map('[{}]'.format),
            inner.map('({},)'.format),
            inner.map('{{{}}}'.format),
            inner.map('-{}'.format),
            inner.map('dict(**{})'.format),
            inner.map('dict({})'.format),
            st.tuples(inner, inner).map(lambda two: '{{{}: {}}}'.format(*two)),
        ),
        max_leaves=6,
    )
    names = st.sampled_from(
        ['model', 'a', 'custom_imports', 'default_scope', '_base_', 'test_dataloader']
    )
    line = st.tuples(names, values).map(' = '.join)
    return st.one_of(st.text(), st.lists(line, max_size=4).map('\n'.join))


@PROFILE
@given(text=config_texts())
def test_configs_in_checkpoints(text):
    from eca_mmdet.checkpoints.embedded_config import parse_config

    found = survives(parse_config, text, 'x.pth')
    assert found is None or isinstance(found, dict)


@pytest.mark.usefixtures('mmdet_ready')
@PROFILE
@given(text=config_texts())
def test_configs_in_checkpoints_are_made(text):
    from eca_mmdet.checkpoints.embedded_config import parse_config
    from eca_mmdet.engine.config import plain_config

    values = survives(parse_config, text, 'x.pth')
    if values is not None:
        survives(plain_config, values, 'x.pth')


def edited(content, edits):
    """A copy of JSON with values put at some of its paths."""
    from tests.faults.hostile import paths_of

    for number, value in edits:
        paths = paths_of(content)
        *parents, last = paths[number % len(paths)]
        node = content
        for part in parents:
            node = node[part]
        node[last] = value
    return content


EDITS = st.lists(st.tuples(st.integers(0, 10**4), JSON), min_size=1, max_size=3)


@PROFILE
@given(edits=EDITS)
def test_annotations(edits):
    from eca_mmdet.datasets.coco import require_annotations
    from eca_mmdet.datasets.ground_truth import ground_truth

    content = edited(sound(), edits)
    try:
        require_annotations('ann.json', content)
    except UserError:
        return
    survives(ground_truth, content)


@PROFILE
@given(edits=EDITS)
def test_annotations_are_checked_and_repaired(edits):
    from eca_mmdet.datasets.coco import require_annotations
    from eca_mmdet.datasets.rules.check import repair

    content = edited(sound(), edits)
    try:
        require_annotations('ann.json', content)
    except UserError:
        return
    for fault in check_annotations(content):
        assert fault.count > 0 and fault.line()
    repaired, _ = repair(content)
    json.dumps(repaired)


def results():
    return [
        {
            'image_id': 10,
            'category_id': 1,
            'bbox': [1, 2, 3, 4],
            'score': 0.5,
            'segmentation': {'size': [48, 64], 'counts': [10, 9, 3053]},
        },
        {
            'image_id': 20,
            'category_id': 2,
            'bbox': [1, 2, 3, 4],
            'score': 0.25,
            'segmentation': [[1, 2, 9, 2, 9, 9]],
        },
    ]


@PROFILE
@given(edits=EDITS)
def test_results(edits):
    from eca_mmdet.datasets.detections import detections_of
    from eca_mmdet.datasets.ground_truth import ground_truth

    found = survives(detections_of, edited(results(), edits), ground_truth(sound()))
    for one in (found or {}).values():
        assert np.isfinite(one.scores).all()
        assert one.boxes is None or np.isfinite(one.boxes).all()


@PROFILE
@given(
    size=st.tuples(st.integers(-3, 70), st.integers(-3, 70)),
    counts=st.one_of(
        st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30),
        st.lists(NUMBERS, max_size=5),
        st.binary(max_size=20),
    ),
)
def test_masks_that_pass_can_be_decoded(size, counts):
    """What the check passes must be safe for pycocotools, which trusts it."""
    from eca_mmdet.datasets.masks import mask_api, mask_faults, to_rle

    mask = {'size': list(size), 'counts': counts}
    if not mask_faults([mask], [(0, 0)]):
        decoded = mask_api().decode(to_rle(mask, *size))
        assert decoded.shape == size and decoded.max(initial=0) <= 1


@PROFILE
@given(
    points=st.lists(st.lists(NUMBERS, max_size=9), max_size=3),
    size=st.tuples(*[st.sampled_from([0, 1, 48, 64, 2**20, 2**31 - 1])] * 2),
)
def test_outlines_that_pass_can_be_drawn(points, size):
    from eca_mmdet.datasets.masks import mask_api, mask_faults, to_rle

    if not mask_faults([points], [size]):
        assert mask_api().area(to_rle(points, *size)) >= 0


@PROFILE
@given(record=JSON, key=st.integers(0, 20))
def test_metrics_files(record, key):
    from eca_mmdet.reporting.run import check_record

    sound_one = {
        'results': {'bbox': {'metrics': {'AP': 0.5}, 'classes': [], 'counts': {}}},
        'annotations': {'file': 'a', 'sha256': 'b'},
        'analysis': [{'bbox': {'pr_curves': {'recall': [0.0], '0.50': [1.0]}}}],
    }
    content = edited(sound_one, [(key, record)])
    survives(check_record, content)


@PROFILE
@given(
    text=st.one_of(
        st.text(),
        st.sampled_from(['hf', 'https', 'torchvision', 'ftp', 'file']).flatmap(
            lambda scheme: st.text(max_size=20).map(f'{scheme}://{{}}'.format)
        ),
    )
)
def test_addresses(text):
    from eca_mmdet.checkpoints.download import is_address, is_fetched

    assert isinstance(is_address(text), bool) and isinstance(is_fetched(text), bool)


KEYS = st.one_of(
    st.text(max_size=12),
    st.from_regex(
        r'(backbone\.|module\.)?(layer[0-9]|stages\.[0-9]|features|conv1|bn1|fc|stem)'
        r'(\.[0-9]{1,3})?(\.(conv[0-9]|bn[0-9]|eca|se|downsample\.[01]|0))?'
        r'(\.(conv|fc))?\.(weight|bias|running_mean)',
        fullmatch=True,
    ),
)
TENSORS = st.builds(
    lambda shape, kind: torch.zeros(shape, dtype=kind),
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from(
        [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64]
    ),
)


@PROFILE
@given(
    state=st.dictionaries(KEYS, TENSORS, max_size=8),
    extras=st.dictionaries(
        st.sampled_from(['meta', 'arch', 'epoch', 'x']), JSON, max_size=3
    ),
)
def test_state_dicts(state, extras):
    from eca_mmdet.checkpoints import convert
    from eca_mmdet.checkpoints.inspection import identify

    found = identify(state, extras, 'x.pth')
    assert isinstance(found['known'], bool)
    for target in ('mmdet', 'authors', 'timm'):
        survives(convert, state, target, False, extras)


@pytest.fixture(scope='module')
def network():
    from tests.references.networks import AuthorsResNet

    return AuthorsResNet(18, (3, 5, 7, 7), width=4, classes=3).state_dict()


@PROFILE
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.one_of(TENSORS, KEYS)), max_size=4)
)
def test_networks_with_other_tensors(network, edits):
    from eca_mmdet.checkpoints import convert
    from eca_mmdet.checkpoints.inspection import identify

    state = dict(network)
    for number, value in edits:
        key = list(state)[number % len(state)]
        if isinstance(value, str):
            state[value] = state.pop(key)
        else:
            state[key] = value
    identify(state, {}, 'x.pth')
    for target in ('mmdet', 'authors', 'timm'):
        survives(convert, state, target, False, {})


@PROFILE
@given(
    raw=st.binary(max_size=300),
    head=st.sampled_from([b'', b'\x80\x02', b'\x80\x02\x8a\x0a', b'PK\3\4']),
)
def test_pickles(raw, head):
    """Reading one ends, in a WeightsError at worst."""
    from eca_mmdet.checkpoints.io import read_checkpoint

    with tempfile.NamedTemporaryFile() as file:
        file.write(head + raw)
        file.flush()
        survives(read_checkpoint, file.name)
