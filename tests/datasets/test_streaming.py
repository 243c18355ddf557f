"""Result files are read in batches, and whole where something is wrong."""

import hashlib
import itertools
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eca_mmdet.datasets import detections as module
from eca_mmdet.datasets.detections import (
    TASKS,
    NotStreamableError,
    PlainEntry,
    detections_of,
    entry_batches,
    read_results,
)
from eca_mmdet.datasets.ground_truth import ground_truth
from eca_mmdet.datasets.masks import mask_api
from eca_mmdet.utils.errors import UserError

TRUTH = ground_truth(
    {
        'images': [{'id': i, 'height': 40, 'width': 50} for i in range(30)],
        'categories': [{'id': i, 'name': f'c{i}'} for i in (7, 3, 5)],
        'annotations': [],
    }
)


FIELDS = ('bbox', 'segmentation')
MASK = np.zeros((40, 50), np.uint8, order='F')
MASK[3:9, 4:30] = 1
COUNTS = mask_api().encode(MASK)['counts'].decode()


def entries(count, seed=0, fields=FIELDS):
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        x, y = draw.uniform(0, 20, 2).tolist()
        one = {
            'image_id': int(draw.integers(30)),
            'category_id': int(draw.choice([3, 5, 7])),
            'score': float(draw.random()),
            'bbox': [x, y, 5, 2.5e0],
            'segmentation': {'size': [40, 50], 'counts': COUNTS},
            'note': 'Zürich }, {"日本": [1]} \\ " ]',
        }
        keys = [key for key in one if key in fields or key not in FIELDS]
        found.append({key: one[key] for key in draw.permutation(keys).tolist()})
    return found


FORMS = {
    'one line': dict(),
    'compact': dict(separators=(',', ':')),
    'indented': dict(indent=2),
    'as it is': dict(ensure_ascii=False, indent='\t'),
}


def read(path):
    digest = hashlib.sha256()
    return [*entry_batches(path, digest)], digest.hexdigest()


@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
@pytest.mark.parametrize('block', [400, 401, 403, 409, 1000, 1 << 20])
def test_the_entries_are_those_of_json(monkeypatch, tmp_path, form, block):
    """Wherever the blocks end: in numbers, names, escapes and characters."""
    monkeypatch.setattr(module, 'BLOCK', block)
    path = tmp_path / 'r.json'
    content = json.dumps(entries(60), **form).encode()
    path.write_bytes(b' \r\n' + content + b'\n')
    found, sha256 = read(path)
    keys = PlainEntry.__struct_fields__
    expected = [{key: one.get(key) for key in keys} for one in json.loads(content)]
    joined = [*itertools.chain.from_iterable(found)]
    assert json.loads(msgspec.json.encode(joined)) == expected
    assert all(found) and (len(found) > 10) == (block < 1 << 20)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


SOUND = json.dumps(entries(6))
UNSOUND = {
    'empty': '',
    'no entry': '[]',
    'object': '{}',
    'numbers': '[1, 2]',
    'a number last': SOUND[:-1] + ', 7]',
    'not closed': SOUND[:-1],
    'cut off': SOUND[:-30],
    'more behind it': SOUND + 'x',
    'two lists': SOUND + SOUND,
    'comma at the end': SOUND[:-1] + ',]',
    'two commas': SOUND.replace('}, {"', '},, {"', 1),
    'no comma': SOUND.replace('}, {"', '} {"', 1),
    'no bracket': SOUND[1:],
    'a comma first': ',' + SOUND[1:],
    'brackets between': SOUND.replace('}, {"', '}[ {"', 1),
}


@pytest.mark.parametrize('block', [400, 1 << 20])
@pytest.mark.parametrize('text', UNSOUND.values(), ids=UNSOUND)
def test_anything_else_is_left_to_the_other_reader(monkeypatch, tmp_path, text, block):
    monkeypatch.setattr(module, 'BLOCK', block)
    (tmp_path / 'r.json').write_text(text)
    with pytest.raises(NotStreamableError):
        read(tmp_path / 'r.json')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-8-sig', 'latin-1'])
def test_other_encodings(tmp_path, encoding):
    text = json.dumps(entries(3)).replace('\\u00fc', 'ü')
    path = tmp_path / 'r.json'
    path.write_bytes(text.encode(encoding))
    with pytest.raises(NotStreamableError):
        read(path)
    if encoding == 'latin-1':
        with pytest.raises(UserError, match='is not JSON'):
            read_results(path, TRUTH)
    else:
        assert len(read_results(path, TRUTH).found['bbox']) == 3


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for task, one in ours.items():
        other = theirs[task]
        for name in ('image', 'category', 'scores', 'boxes'):
            first, second = getattr(one, name), getattr(other, name)
            assert (first is None) == (second is None), name
            if first is not None:
                assert first.dtype == second.dtype and np.array_equal(first, second)
        assert (one.masks is None) == (other.masks is None)
        if one.masks is not None:
            assert [*one.masks] == [*other.masks] == one.masks.as_dicts()
            assert one.masks.areas.tolist() == other.masks.areas.tolist()


MIXED = {
    'both': entries(50),
    'boxes': entries(50, 1, ('bbox',)),
    'masks': entries(50, 2, ('segmentation',)),
    'masks of some': [*entries(40, 3), *entries(10, 4, ('bbox',))],
    'boxes of some': [*entries(40, 5, ('segmentation',)), *entries(10, 6)],
}


def outcome(path, tasks):
    try:
        return read_results(path, TRUTH, tasks)
    except UserError as error:
        return str(error)


def both_outcomes(path, tasks, block=1000):
    """What is read in batches and what is read whole, which must be equal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'BLOCK', block)
        ours = outcome(path, tasks)
        patch.setattr(module, '_read_batches', refuse)
        theirs = outcome(path, tasks)
    assert type(ours) is type(theirs)
    if isinstance(theirs, str):
        assert ours == theirs
    else:
        same(ours.found, theirs.found)
        assert (ours.sha256, ours.notes) == (theirs.sha256, theirs.notes)
    return ours


@pytest.mark.parametrize('tasks', [None, ['bbox'], ['segm'], ['segm', 'bbox']], ids=str)
@pytest.mark.parametrize('content', MIXED.values(), ids=MIXED)
def test_columns_are_those_of_the_whole(tmp_path, content, tasks):
    path = tmp_path / 'r.json'
    path.write_text(json.dumps(content))
    ours = both_outcomes(path, tasks)
    if not isinstance(ours, str):
        same(ours.found, detections_of(content, TRUTH, tasks=tasks))


NUMBER = st.from_regex(
    r'-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?', fullmatch=True
)
ODD = st.one_of(
    st.sampled_from(
        (
            'NaN',
            '-Infinity',
            '1e999',
            '-0',
            '-0.0',
            '"5"',
            'true',
            'null',
            '[]',
            '{}',
            '1' * 400,
        )
    ),
    NUMBER,
)
IDS = st.sampled_from(
    ('3', '5', '7', '7', '5.0', '5.5', '99', f'{2**70}', '1' * 400, 'null')
)
SIDES = [
    *['[40, 50]'] * 5,
    '[50, 40]',
    '[40, 50, 1]',
    '[40.0, 50]',
    '[-40, 50]',
    '0',
    f'[{2**70}, 50]',
]
RUNS = ['"' + COUNTS + '"'] * 5 + ['"é"', '"\\ud800"', '""', '"PT"', '"0"', '[2000]']
MASK_TEXT = st.tuples(st.sampled_from(SIDES), st.sampled_from(RUNS)).map(
    '{"size": %s, "counts": %s}'.__mod__
)


@st.composite
def file_text(draw):
    """A result file: sound but for a few values, or numbers of any length."""
    number = draw(st.sampled_from((NUMBER, st.sampled_from(('1', '2.5', '1e1')))))
    box = st.lists(number.map(lambda text: text.lstrip('-')), min_size=4, max_size=4)
    sound = {
        'image_id': st.sampled_from(('3', '5')),
        'category_id': st.sampled_from(('3', '5', '7')),
        'score': number,
        'bbox': box.map(lambda sides: f'[{", ".join(sides)}]'),
        'segmentation': st.just(json.dumps({'size': [40, 50], 'counts': COUNTS})),
        'x': st.sampled_from(('"}, {"', '[{}, {}]', '"ü"', '1e999', '-0')),
    }
    odd = {
        'image_id': IDS,
        'category_id': IDS,
        'score': ODD,
        'bbox': st.one_of(
            ODD, st.lists(ODD, max_size=5).map(lambda v: f'[{",".join(v)}]')
        ),
        'segmentation': st.one_of(ODD, MASK_TEXT, st.just('[[1, 1, 9, 1, 9, 9]]')),
        'x': st.sampled_from(('NaN', '"\\ud800"', '01', '"\\x"', '\x0b1', '1,')),
    }
    keys = draw(st.sets(st.sampled_from(('bbox', 'segmentation', 'x'))))
    keys |= {'image_id', 'category_id', 'score'}
    entries = []
    for _ in range(draw(st.integers(1, 12))):
        values = {key: draw(sound[key]) for key in sorted(keys)}
        if draw(st.integers(0, 15)) == 0:
            key = draw(st.sampled_from(sorted(odd)))
            values[key] = draw(odd[key])
        if draw(st.integers(0, 40)) == 0:
            values.pop(draw(st.sampled_from(sorted(values))))
        entries.append(', '.join(f'"{key}": {text}' for key, text in values.items()))
    between = draw(st.sampled_from(('}, {', '},{', '}\n ,\n  {', '}\x0b, {', '} {')))
    return '[{' + between.join(entries) + '}]'


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(text=file_text(), block=st.sampled_from((300, 700, 1 << 22)))
@pytest.mark.parametrize('tasks', [None, ['bbox'], ['segm', 'bbox']], ids=str)
def test_odd_files_give_the_same_columns_and_errors(
    tmp_path_factory, tasks, text, block
):
    path = tmp_path_factory.getbasetemp() / 'odd.json'
    path.write_text(text, 'utf-8')
    both_outcomes(path, tasks, block)


def refuse(*_):
    raise NotStreamableError


@pytest.mark.parametrize(
    ('harm', 'message'),
    [
        ({'score': 'high'}, '2 of 60 detections have a score that is no finite number'),
        ({'image_id': 99}, '2 of 60 detections have an unknown image_id'),
        ({'bbox': [1, 2, -3, 4]}, '2 of 60 detections have a box of negative width'),
        ({'segmentation': {'size': [40, 50], 'counts': 'P'}}, '2 of 60 detections'),
    ],
)
def test_faults_are_counted_over_the_whole(monkeypatch, tmp_path, harm, message):
    """One is in the first batch, one in the last."""
    monkeypatch.setattr(module, 'BLOCK', 1000)
    content = entries(60)
    content[3] |= harm
    content[58] |= harm
    path = tmp_path / 'r.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_results(path, TRUTH, TASKS)
    assert 'the first is number 3' in str(caught.value)


def test_sound_files_are_not_read_whole(monkeypatch, tmp_path):
    def fail(*_):
        raise AssertionError('read whole')

    monkeypatch.setattr(module, 'read_json', fail)
    monkeypatch.setattr(module, 'detections_of', fail)
    monkeypatch.setattr(module, 'BLOCK', 1000)
    (tmp_path / 'r.json').write_text(json.dumps(entries(60)))
    assert len(read_results(tmp_path / 'r.json', TRUTH).found['segm']) == 60
