"""A repaired copy has no fault that can be mended, and is otherwise the same."""

import copy
import json
import os

import pytest

from eca_mmdet.datasets import checking
from eca_mmdet.datasets.images import ImageFiles
from eca_mmdet.datasets.rules.check import check_annotations, repair
from eca_mmdet.utils.errors import UserError
from tests.support.broken_data import (
    CASES,
    DELETE,
    IMAGES,
    case_id,
    sound,
    write_images,
)


def faults(content):
    return {f.code for f in check_annotations(content) if f.severity != 'note'}


def done(counter):
    return {told: count for told, count in counter.items() if count}


@pytest.mark.parametrize('case', CASES, ids=case_id)
def test_what_can_be_mended_is(case):
    broken = case.content()
    before = copy.deepcopy(broken)
    repaired, counts = repair(broken)
    assert repr(broken) == repr(before)  # the source is not changed; NaN differs
    assert faults(repaired) == case.left
    assert bool(done(counts)) == (not case.left)
    for key in ('info', 'licenses', 'tool'):
        assert repaired[key] == sound()[key]


def test_a_sound_file_stays_as_it_is():
    repaired, counts = repair(sound())
    assert repaired == sound() and done(counts) == {}


def broken(path, value):
    return next(
        case.content()
        for case in CASES
        if case.edits == {path: value}
        or (value is DELETE and case.edits == {path: DELETE})
    )


def changes(repaired):
    """The annotations that differ from the sound file, as {position: {key: value}}."""
    pairs = zip(sound()['annotations'], repaired['annotations'], strict=True)
    return {
        index: {key: new[key] for key in new if new[key] != old.get(key)}
        for index, (old, new) in enumerate(pairs)
        if new != old
    }


@pytest.mark.parametrize(
    ('path', 'value', 'expected'),
    [
        ('annotations.3.id', 0, {}),
        ('annotations.3.id', 1, {}),
        ('annotations.0.id', DELETE, {}),
        ('annotations.0.image_id', '10', {}),
        ('annotations.0.category_id', '1', {0: {'category_id': 1}}),
        ('annotations.0.iscrowd', DELETE, {}),
        ('annotations.0.area', DELETE, {}),
        ('annotations.0.area', 0, {}),
        ('annotations.0.bbox', DELETE, {}),
        ('annotations.0.bbox', [1, 2, 3], {}),
        ('annotations.0.bbox', [2, 3, 8, '6'], {}),
        ('annotations.0.bbox', [1, 2, 0, 4], {}),
        ('annotations.0.bbox', [1, 2, 3, -4], {}),
        ('annotations.0.bbox', [64, 2, 3, 4], {}),
        ('annotations.0.bbox', [2, 3, 0.5, 6], {}),
        ('annotations.0.bbox', [2 / 64, 3 / 48, 8 / 64, 6 / 48], {}),
        ('annotations.0.segmentation', [2, 3, 10, 3, 10, 9, 2, 9], {}),
        ('annotations.0.segmentation.append', [1, 2, 3, 4, 5, 6, 7], {}),
    ],
)
def test_the_repaired_value(path, value, expected):
    repaired, _ = repair(broken(path, value))
    assert changes(repaired) == expected
    assert {k: v for k, v in repaired.items() if k != 'annotations'} == {
        k: v for k, v in sound().items() if k != 'annotations'
    }


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('annotations.0.image_id', 11),
        ('annotations.0.category_id', 0),
        ('annotations.0.image_id', None),
        ('annotations.0.segmentation', [[90, 3, 99, 3, 99, 9]]),
        ('annotations.0.segmentation', [[1, 2, 3, 4]]),
        ('annotations.0.segmentation', {'counts': 'abc'}),
    ],
)
def test_what_is_dropped(path, value):
    repaired, counts = repair(broken(path, value))
    # The ids of the others stay: nothing is wrong with them.
    assert repaired['annotations'] == sound()['annotations'][1:]
    assert sum(count for told, count in counts.items() if 'dropped' in told) == 1


def test_boxes_stay_in_a_file_without_masks():
    content = sound()
    for one in content['annotations']:
        one['segmentation'] = []
    content['annotations'][0]['segmentation'] = [[1, 2, 3, 4]]
    content['annotations'][1].update(bbox=[60, 2, 6, 4], area=24, image_id=10)
    repaired, _ = repair(content)
    assert len(repaired['annotations']) == 4
    assert repaired['annotations'][0]['segmentation'] == []
    # Without a mask the area was the box's, and follows it.
    assert repaired['annotations'][1]['area'] == 16


def test_area_of_an_rle_and_of_a_box():
    content = sound()
    rle = {'size': [48, 64], 'counts': [10, 9, 3053]}
    content['annotations'][0].update(segmentation=rle, area=None)
    content['annotations'][1].update(segmentation=[], area=-1, bbox=[1, 1, 5, 4])
    repaired, _ = repair(content)
    assert [one['area'] for one in repaired['annotations'][:2]] == [9, 20]


def test_an_rle_that_does_not_fill_its_image_is_removed():
    """The check finds it, so the repair must; pycocotools may crash on it."""
    content = sound()
    rle = {'size': [48, 64], 'counts': 'abc'}
    content['annotations'][0].update(segmentation=rle, area=None)
    assert faults(content) == {'malformed-segmentation', 'missing-area'}
    repaired, counts = repair(content)
    assert repaired['annotations'] == sound()['annotations'][1:]
    assert done(counts) == {
        'malformed segmentations removed': 1,
        'annotations that lost their mask dropped': 1,
    }


def test_merged_categories_take_their_annotations_along():
    content = sound()
    content['categories'].append({'id': 3, 'name': 'dog'})
    content['annotations'][0]['category_id'] = 3
    repaired, counts = repair(content)
    assert repaired['categories'] == sound()['categories']
    assert repaired['annotations'][0]['category_id'] == 2
    assert done(counts)['annotations given the category they were merged into'] == 1


def test_references_follow_renumbered_ids():
    content = sound()
    content['images'][0]['id'] = 'a'  # text among numbers
    content['annotations'][0]['image_id'] = 'a'
    content['annotations'][1]['image_id'] = 2  # no image now, but 2 will be one
    repaired, _ = repair(content)
    assert [one['id'] for one in repaired['images']] == [1, 2, 3]
    files = {one['id']: one['file_name'] for one in repaired['images']}
    assert [files[one['image_id']] for one in repaired['annotations']] == [
        'é.png',
        'b.jpg',
        'sub/c.png',
    ]


def test_text_ids_of_images_stay():
    content = sound()
    for one in content['images']:
        one['id'] = f'{one["id"]:04}'
    for one in content['annotations']:
        one['image_id'] = f'{one["image_id"]:04}'
    assert repair(content)[0] == content


def test_images_that_are_gone_take_their_annotations_along():
    files = ImageFiles({'b.jpg': ''}, {'sub/c.png': 'cut off'}, {'é.png': (80, 60)})
    repaired, counts = repair(sound(), files)
    assert [one['file_name'] for one in repaired['images']] == ['é.png']
    assert repaired['images'][0] | {'width': 64, 'height': 48} == sound()['images'][0]
    assert (repaired['images'][0]['width'], repaired['images'][0]['height']) == (80, 60)
    assert [one['id'] for one in repaired['annotations']] == [1]
    assert done(counts) == {
        'images without a usable file dropped': 2,
        'image sizes corrected': 1,
        'annotations of dropped images dropped': 3,
    }


# --- the command


def test_fix_writes_a_copy_and_checks_it(write, tmp_path, command):
    content = sound()
    content['annotations'][3]['id'] = 0
    del content['annotations'][1]['iscrowd']
    file, out = write(content), tmp_path / 'fixed.json'
    before = file.read_bytes()
    code, text, _ = command('check-data', file, '--fix', out)
    assert code == 1  # the source has faults
    assert file.read_bytes() == before
    assert json.loads(out.read_text()) == sound()
    assert '  1 iscrowd set to 0' in text
    assert '  4 annotation ids renumbered from 1' in text
    removed = 'removed: 0 of 3 images, 0 of 4 objects, 0 of 4 masks\n'
    assert text.endswith(f'checked again: no fault\n{removed}')
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert command('check-data', out)[0] == 0


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def test_what_is_left_is_said(write, tmp_path, command):
    content = sound()
    content['categories'].append({'id': 3, 'name': 'Dog'})
    content['annotations'][0]['area'] = None
    file = write(content)
    _, text, _ = command('check-data', file, '--fix', tmp_path / 'f.json')
    assert 'still there, for you to decide:\n  warning: 2 x similar-category' in text
    _, text, _ = command('check-data', file, '--fix', tmp_path / 'g.json', '--json')
    fix = json.loads(text)['fix']
    assert fix['repaired'] == {'areas computed': 1}
    assert [one['code'] for one in fix['faults']] == [
        'similar-category-names',
        'class-without-objects',
    ]


def test_fix_with_images(write, tmp_path, command):
    folder = write_images(tmp_path / 'images')
    (folder / 'b.jpg').write_bytes((folder / 'b.jpg').read_bytes()[:300])
    content = sound()
    content['images'][0]['width'] = None
    content['images'][2]['height'] = 99
    out = tmp_path / 'fixed.json'
    code, text, _ = command(
        'check-data', write(content), '--images', folder, '--fix', out, '--force'
    )
    assert code == 1 and 'checked again: no fault\n' in text
    assert text.endswith('removed: 1 of 3 images, 2 of 4 objects, 2 of 4 masks\n')
    images = json.loads(out.read_text())['images']
    assert images == [sound()['images'][0], sound()['images'][2]]
    assert set(IMAGES) - {one['file_name'] for one in images} == {'b.jpg'}


@pytest.mark.parametrize('name', ['ann.json', 'link.json', 'there.json', 'dangling'])
def test_nothing_is_overwritten(write, tmp_path, command, name):
    file = write(sound())
    (tmp_path / 'there.json').write_text('mine')
    (tmp_path / 'link.json').symlink_to(file)
    (tmp_path / 'dangling').symlink_to(tmp_path / 'nowhere')
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    code, out, err = command('check-data', file, '--fix', tmp_path / name)
    assert (code, out) == (2, '') and '[output-exists]' in err
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_a_folder_that_is_not_there(write, tmp_path, command):
    code, _, err = command(
        'check-data', write(sound()), '--fix', tmp_path / 'no/f.json'
    )
    assert code == 2 and '[file-not-written]' in err
    assert not (tmp_path / 'no').exists()


def test_a_write_that_fails_leaves_nothing(write, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    file = write(sound())
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(UserError, match='No space left') as error:
        checking.check_annotations(file, fix=tmp_path / 'f.json')
    assert error.value.code == 'file-not-written'
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_of_which_nothing_is_left(write, tmp_path, command):
    content = sound()
    content['images'] = [{'id': 1}]
    code, _, err = command('check-data', write(content), '--fix', tmp_path / 'f.json')
    assert code == 2 and "nothing is left of 'images'" in err and '[no-images]' in err
    assert not (tmp_path / 'f.json').exists()


def test_the_mark_at_the_start_is_removed(tmp_path, command):
    file, out = tmp_path / 'bom.json', tmp_path / 'f.json'
    file.write_text(json.dumps(sound()), encoding='utf-8-sig')
    code, text, _ = command('check-data', file, '--fix', out)
    assert code == 1 and '  1 file written as UTF-8' in text
    assert json.loads(out.read_text('ascii')) == sound()
