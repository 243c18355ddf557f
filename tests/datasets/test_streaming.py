"""Result files are read in batches, and whole where something is wrong."""

import hashlib
import itertools
import json

import numpy as np
import pytest

from eca_mmdet.datasets import results as module
from eca_mmdet.datasets.detections import TASKS, detections_of
from eca_mmdet.datasets.ground_truth import ground_truth
from eca_mmdet.datasets.masks import mask_api
from eca_mmdet.datasets.results import EntryBatches, NotStreamableError, read_results
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
    batches = EntryBatches(path)
    return [*batches], batches.sha256


@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
@pytest.mark.parametrize('block', [400, 401, 403, 409, 1000, 1 << 20])
def test_the_entries_are_those_of_json(monkeypatch, tmp_path, form, block):
    """Wherever the blocks end: in numbers, names, escapes and characters."""
    monkeypatch.setattr(module, 'BLOCK', block)
    path = tmp_path / 'r.json'
    content = json.dumps(entries(60), **form).encode()
    path.write_bytes(b' \r\n' + content + b'\n')
    found, sha256 = read(path)
    assert [*itertools.chain.from_iterable(found)] == json.loads(content)
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


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="result file '.*/none.json' does not exist"):
        read_results(tmp_path / 'none.json', TRUTH)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for task, one in ours.items():
        other = theirs[task]
        for name in ('image', 'category', 'scores', 'boxes'):
            first, second = getattr(one, name), getattr(other, name)
            assert (first is None) == (second is None), name
            if first is not None:
                assert first.dtype == second.dtype and np.array_equal(first, second)
        assert one.masks == other.masks


MIXED = {
    'both': entries(50),
    'boxes': entries(50, 1, ('bbox',)),
    'masks': entries(50, 2, ('segmentation',)),
    'masks of some': [*entries(40, 3), *entries(10, 4, ('bbox',))],
    'boxes of some': [*entries(40, 5, ('segmentation',)), *entries(10, 6)],
}


@pytest.mark.parametrize('tasks', [None, ['bbox'], ['segm'], ['segm', 'bbox']], ids=str)
@pytest.mark.parametrize('content', MIXED.values(), ids=MIXED)
def test_columns_are_those_of_the_whole(monkeypatch, tmp_path, content, tasks):
    path = tmp_path / 'r.json'
    path.write_text(json.dumps(content))

    def outcome():
        try:
            return read_results(path, TRUTH, tasks)
        except UserError as error:
            return str(error)

    monkeypatch.setattr(module, 'BLOCK', 1000)
    ours = outcome()
    monkeypatch.setattr(module, '_read_batches', refuse)
    theirs = outcome()
    if isinstance(theirs, str):
        assert ours == theirs
        return
    same(ours.found, theirs.found)
    same(ours.found, detections_of(content, TRUTH, tasks=tasks))
    assert (ours.sha256, ours.notes) == (theirs.sha256, theirs.notes)


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
    monkeypatch.setattr(module, 'BLOCK', 1000)
    (tmp_path / 'r.json').write_text(json.dumps(entries(60)))
    assert len(read_results(tmp_path / 'r.json', TRUTH).found['segm']) == 60
