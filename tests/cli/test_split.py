"""A split keeps groups whole, every class in each part, and is the same everywhere."""

import collections
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eca_mmdet.datasets.splitting import divide, make_units
from eca_mmdet.utils.errors import UserError


def data(classes, **fields):
    """One image for each list of classes; a field has a value for each image."""
    images = [
        {'id': at, 'file_name': f'{at:03}.jpg', 'width': 10, 'height': 10}
        | {name: values[at] for name, values in fields.items()}
        for at in range(len(classes))
    ]
    objects = [(at, name) for at, names in enumerate(classes) for name in names]
    return {
        'info': {'year': 2026},
        'images': images,
        'annotations': [
            {'id': n, 'image_id': at, 'category_id': name, 'bbox': [0, 0, 5, 5]}
            | {'area': 25, 'iscrowd': 0}
            for n, (at, name) in enumerate(objects, 1)
        ],
        'mine': [1, 2],
        'categories': [
            {'id': name, 'name': f'class {name}'}
            for name in sorted(
                {99, *(name for _, name in objects)}, key=str, reverse=True
            )
        ],
    }


def parts_of(content, shares=(0.2,), seed=0, stratify=False, group_by=None):
    """The part of each file name."""
    units = make_units(content, group_by, None)
    places = divide(units, shares, seed, stratify)
    return {
        name: place
        for unit, place in zip(units, places, strict=True)
        for name in unit.names
    }


def held(content, parts):
    """The parts in which each class has an object."""
    names = {one['id']: one['file_name'] for one in content['images']}
    found = collections.defaultdict(set)
    for one in content['annotations']:
        if not one['iscrowd']:
            found[one['category_id']].add(parts[names[one['image_id']]])
    return found


# What a split is


files = st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=3, max_size=25)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(files, st.data())
def test_any_file(classes, draw):
    groups = draw.draw(st.lists(st.integers(0, 9), min_size=25, max_size=25))
    shares = draw.draw(st.sampled_from([(0.2,), (0.5,), (0.9,), (0.2, 0.1)]))
    stratify, seed = draw.draw(st.booleans()), draw.draw(st.integers(0, 3))
    content = data(classes, group=groups)
    group_by = draw.draw(st.sampled_from([None, 'group']))
    units = len(set(groups[: len(classes)])) if group_by else len(classes)
    if units <= len(shares):
        with pytest.raises(UserError, match='cannot be split'):
            parts_of(content, shares, seed, stratify, group_by)
        return
    parts = parts_of(content, shares, seed, stratify, group_by)
    # A partition without an empty part, in which no group is in two.
    assert parts.keys() == {one['file_name'] for one in content['images']}
    assert set(parts.values()) == set(range(len(shares) + 1))
    if group_by:
        pairs = {(one['group'], parts[one['file_name']]) for one in content['images']}
        assert len(pairs) == units
    # The order of the entries does not count.
    mixed = random.Random(seed)
    for key in ('images', 'annotations', 'categories'):
        mixed.shuffle(content[key])
    assert parts_of(content, shares, seed, stratify, group_by) == parts


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 6), min_size=2, max_size=30), st.booleans())
def test_every_class_of_two_images_is_in_both_parts(classes, stratify):
    """With a class an image it is always possible."""
    content = data([[name] for name in classes])
    found = held(content, parts_of(content, stratify=stratify))
    for name, count in collections.Counter(classes).items():
        if count > 1:
            assert found[name] == {0, 1}
        elif len(set(classes)) < len(classes):
            assert found[name] == {0}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.sets(st.integers(1, 6), max_size=4), min_size=2, max_size=9))
def test_no_split_of_a_small_file_has_more_classes_in_both(classes):
    """Against all of the 2**n splits."""
    units = list(classes)
    counts = collections.Counter(name for names in units for name in names)

    def missing(chosen):
        train = {
            n for k, names in enumerate(units) if not chosen >> k & 1 for n in names
        }
        val = {n for k, names in enumerate(units) if chosen >> k & 1 for n in names}
        return sum(
            (n not in train) + (c > 1 and n not in val) for n, c in counts.items()
        )

    least = min(map(missing, range(1, 2 ** len(units) - 1)))
    content = data([sorted(names) for names in classes])
    for stratify in (False, True):
        parts = parts_of(content, stratify=stratify)
        chosen = sum(parts[f'{k:03}.jpg'] << k for k in range(len(units)))
        assert missing(chosen) == least


def test_sizes_are_exact_where_nothing_forbids_it():
    content = data([[1]] * 50 + [[2]] * 50)
    for seed in range(5):
        parts = parts_of(content, (0.2, 0.1), seed)
        counts = collections.Counter(parts.values())
        assert [counts[part] for part in range(3)] == [70, 20, 10]


def test_a_rare_class_does_not_cost_the_size():
    """The images it moves are made up for by others."""
    content = data([[1]] * 38 + [[1, 2]] * 2)
    for seed in range(10):
        parts = parts_of(content, seed=seed)
        assert held(content, parts) == {1: {0, 1}, 2: {0, 1}}
        assert sum(parts.values()) == 8


def test_where_no_split_serves_all_one_class_is_left():
    """Of three classes in pairs of three images two parts cannot both have all."""
    content = data([[1, 2], [2, 3], [1, 3]])
    found = held(content, parts_of(content))
    assert sorted(map(len, found.values())) == [1, 2, 2]


@pytest.mark.parametrize('shares', [(0.2,), (0.2, 0.1)])
def test_stratified_shares_are_nearly_equal(shares):
    mixed = random.Random(1)
    weights = [0.6, 0.3, 0.1, 0.05, 0.02]
    classes = [
        [n for n, w in enumerate(weights) if mixed.random() < w] for _ in range(500)
    ]
    content = data(classes)
    whole = collections.Counter(name for names in classes for name in names)
    sizes, errors = {}, {}
    for stratify in (False, True):
        parts = parts_of(content, shares, 3, stratify)
        seen = collections.Counter(
            (parts[f'{at:03}.jpg'], name)
            for at, names in enumerate(classes)
            for name in names
        )
        errors[stratify] = max(
            abs(seen[part, name] - share * count)
            for part, share in enumerate(shares, 1)
            for name, count in whole.items()
        )
        sizes[stratify] = [
            list(parts.values()).count(p) for p in range(1, len(shares) + 1)
        ]
    assert errors[True] <= 1  # image
    assert errors[False] > 3
    for got, share in zip(sizes[True], shares, strict=True):
        assert abs(got - 500 * share) <= 2


@pytest.mark.parametrize('seed', range(4))
def test_stratified_shares_of_images_with_several_classes(seed):
    """What one class at a time, as in the paper, leaves uneven."""
    mixed = random.Random(seed)
    classes = [[n for n in range(8) if mixed.random() < 0.5] for _ in range(400)]
    parts = parts_of(data(classes), (0.2, 0.1), seed, stratify=True)
    for part, share in enumerate((0.2, 0.1), 1):
        own = [
            names for at, names in enumerate(classes) if parts[f'{at:03}.jpg'] == part
        ]
        assert abs(len(own) - 400 * share) <= 1
        for name in range(8):
            whole = sum(name in names for names in classes)
            assert abs(sum(name in names for names in own) - whole * share) <= 3


@pytest.mark.parametrize('stratify', [False, True])
@pytest.mark.parametrize('share', [0.1, 0.9])
def test_two_large_groups_are_two_parts(stratify, share):
    content = data([[]] * 10, take=[0, 1] * 5)
    parts = parts_of(content, (share,), 0, stratify, 'take')
    assert sorted(parts.values()) == [0] * 5 + [1] * 5


def test_another_seed_is_another_split():
    content = data([[1]] * 30)
    splits = {tuple(parts_of(content, seed=seed).values()) for seed in range(10)}
    assert len(splits) == 10


def test_the_split_of_a_seed_stays():
    """Written once, so that another machine or version that differs is seen."""
    content = data([[1], [1, 2], [2], [1], [3], [3], [1], [2], [1], [1]])
    for stratify, expected in GOLDEN.items():
        parts = parts_of(content, (0.2, 0.1), 7, stratify)
        assert ''.join(map(str, parts.values())) == expected


GOLDEN = {False: '2100010200', True: '0010101202'}


def test_hashes_of_texts_do_not_count(tmp_path):
    """Python's differ from one start to the next."""
    file = tmp_path / 'a.json'
    content = data([['a', 'b'], ['b', 'c'], ['c'], ['a'], ['d'], ['d', 'a'], ['b']] * 3)
    content['categories'] = [{'id': n, 'name': n} for n in 'abcd']
    file.write_text(json.dumps(content))
    seen = set()
    for number in ('1', '2', '3'):
        out = tmp_path / number
        subprocess.run(
            [
                sys.executable,
                '-m',
                'eca_mmdet.cli',
                'data',
                'split',
                file,
                '--val',
                '0.3',
            ]
            + ['--stratify', '--out', out],
            env={'PYTHONHASHSEED': number, 'PYTHONPATH': ':'.join(sys.path)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seen.add((out / 'a_val.json').read_bytes())
    assert len(seen) == 1


# What stays together


@pytest.mark.parametrize('name', ['./x//a.jpg', 'x/a.jpg'])
def test_entries_of_one_file_stay_together(name):
    content = data([[1]] * 12)
    content['images'][3]['file_name'], content['images'][7]['file_name'] = (
        'x/a.jpg',
        name,
    )
    units = make_units(content, None, None)
    assert [3, 7] in [list(one.images) for one in units]
    assert len(units) == 11


def test_entries_of_one_id_stay_together():
    content = data([[1]] * 12)
    content['images'][7]['id'] = 3
    (pair,) = [u for u in make_units(content, None, None) if u.size > 1]
    assert pair.images == (3, 7)


def test_groups_reach_through_equal_files():
    content = data([[1], [1], [1], [2]], video=['a', 'b', 'b', 'c'])
    content['images'][0]['file_name'] = content['images'][1]['file_name']
    found = sorted(one.images for one in make_units(content, 'video', None))
    assert found == [(0, 1, 2), (3,)]


def test_folders_are_groups():
    content = data([[1]] * 6)
    for at, folder in enumerate(['a/', 'a/', 'a/b/', 'c/', '', '']):
        content['images'][at]['file_name'] = f'{folder}{at}.jpg'
    found = sorted(one.images for one in make_units(content, 'folder', None))
    assert found == [(0, 1), (2,), (3,), (4, 5)]
    for at, one in enumerate(content['images']):
        one['folder'] = at % 2  # a field of that name goes before
    found = sorted(one.images for one in make_units(content, 'folder', None))
    assert found == [(0, 2, 4), (1, 3, 5)]


def test_images_without_the_field_are_refused():
    content = data([[1]] * 4, patient=['a', None, 0, ''])
    with pytest.raises(UserError, match=r"1 of 4 images have no 'patient'.*001\.jpg"):
        make_units(content, 'patient', None)


def test_equal_bytes_stay_together(tmp_path):
    content = data([[1]] * 5)
    for at, text in enumerate(['aa', 'bb', 'aa', 'cccc']):
        (tmp_path / f'{at:03}.jpg').write_text(text)  # the fifth is not there
    found = sorted(one.images for one in make_units(content, None, tmp_path))
    assert found == [(0, 2), (1,), (3,), (4,)]
    with pytest.raises(UserError, match='none of the 5 images'):
        make_units(content, None, tmp_path / 'no')


# The command


@pytest.fixture
def split(write, command):
    def call(content, *args):
        path = write(content)
        return path, *command('data', 'split', path, *args)

    return call


def test_the_files_and_the_table(split, command):
    content = data(
        [[1, 1], [1], [2, 2, 2], [2], [3], [1], [1], [1], [1], [1]],
        take=[0, 1, 2, 3, 4, 0, 1, 6, 7, 8],
    )
    content['annotations'][0]['iscrowd'] = 1
    path, code, out, _ = split(content, '--val', '0.2', '--group-by', 'take')
    assert code == 0
    train, val = (
        json.loads(path.with_name(f'ann_{part}.json').read_text())
        for part in ('train', 'val')
    )
    for one in (train, val):
        assert [key for key in one if key != 'licenses'] == list(content)
        assert [one[k] for k in ('info', 'mine')] == [
            content[k] for k in ('info', 'mine')
        ]
        assert one['categories'] == [
            entry | {'supercategory': 'none'} for entry in content['categories']
        ]
        ids = [image['id'] for image in one['images']]
        assert ids == sorted(ids)  # the order of the file
        assert one['annotations'] == [
            a for a in content['annotations'] if a['image_id'] in ids
        ]
    assert len(train['images']) == 8
    assert len(train['annotations'] + val['annotations']) == 13
    rows = [line.split() for line in out.splitlines()]
    head = rows.index(
        ['class', 'train', 'images', 'objects', 'val', 'images', 'objects']
    )
    table = {
        ' '.join(row[:2]): list(map(int, row[2:])) for row in rows[head + 1 : head + 5]
    }
    assert list(table) == ['class 99', 'class 3', 'class 2', 'class 1']
    for name, cells in table.items():
        number = int(name.split()[1])
        for part, at in ((train, 0), (val, 2)):
            own = [
                a
                for a in part['annotations']
                if a['category_id'] == number and not a['iscrowd']
            ]
            assert cells[at : at + 2] == [len({a['image_id'] for a in own}), len(own)]
    assert table['class 3'] == [1, 1, 0, 0]
    assert 'too few images or groups to be in each part: class 3 (1)' in out
    assert 'not counted as objects: 1 crowd annotations' in out
    assert '8 of 10 images (80.0%), ' in out
    assert '2 of 10 images (20.0%, asked for 20.0%), ' in out
    before = path.with_name('ann_val.json').read_bytes()
    _, code, _, err = split(content, '--val', '0.2', '--seed', '1')
    assert (code, path.with_name('ann_val.json').read_bytes()) == (2, before)
    assert err.endswith('[output-exists]\n')
    found = command('data', 'check', path.with_name('ann_train.json'))
    assert 'error' not in found[1].replace('0 errors', '')


def test_a_crowd_is_no_presence(split):
    content = data([[1], [1], [1], [1], [2], [2]])
    content['annotations'][5]['iscrowd'] = 1
    _, _, out, _ = split(content, '--val', '0.5')
    assert 'too few images to be in each part: class 2 (1)' in out


def test_parts_without_an_object_to_train_on(split):
    content = data([[1], [1], [1], [1]])
    for one in content['annotations']:
        one['bbox'] = [0, 0, 0.5, 5]
    path, code, out, _ = split(content, '--val', '0.5')
    assert code == 0 and 'no object that mmdet trains on in train, val: ' in out
    del content['annotations'][1:]
    content['annotations'][0]['bbox'] = [0, 0, 5, 5]
    _, _, out, _ = split(content, '--val', '0.5', '--out', path.parent / 'b', '--json')
    assert json.loads(out)['nothing_to_train_on'] == ['val']


def test_annotations_of_other_images_are_told(split):
    content = data([[1]] * 5)
    content['annotations'] += [{'id': 9, 'image_id': 77, 'category_id': 1}, {'id': 10}]
    path, code, out, _ = split(content, '--val', '0.2', '--test', '0.2', '--json')
    found = json.loads(out)
    assert code == 0
    assert found['left_out_annotations'] == 2
    assert found['images'] == {'train': 3, 'val': 1, 'test': 1}
    _, _, out, _ = split(content, '--val', '0.2', '--out', path.parent / 'b')
    assert 'in no part: 2 annotations of images that are not in the file' in out


def test_without_annotations(split):
    content = data([[]] * 4)
    del content['annotations']
    path, code, _, _ = split(content, '--val', '0.5', '--stratify')
    assert code == 0
    assert 'annotations' not in json.loads(path.with_name('ann_val.json').read_text())


def test_many_classes_leave_out_the_sound_ones(split):
    content = data([[name] for name in range(100, 170)] * 2 + [[1]])
    _, _, out, _ = split(content, '--val', '0.5')
    rows = [line for line in out.splitlines() if line.startswith(('class 1', '(7'))]
    assert [row.split()[1] for row in rows] == ['1', 'more']
    assert '(70 more classes)' in out


def _without_id(content):
    del content['images'][2]['id']


@pytest.mark.parametrize(
    ('args', 'change', 'told'),
    [
        (['--val', '0'], None, 'between 0 and 1'),
        (['--val', '1'], None, 'between 0 and 1'),
        (['--val', 'nan'], None, 'between 0 and 1'),
        (['--val', '0.5', '--test', '0.5'], None, '[option-invalid]'),
        (['--val', '0.2', '--group-by', 'x'], None, "5 of 5 images have no 'x'"),
        (
            ['--val', '0.2', '--group-by', 'folder'],
            None,
            '1 images or groups cannot be',
        ),
        (['--val', '0.2'], lambda c: c.update(images=[]), 'non-empty list'),
        (
            ['--val', '0.2'],
            lambda c: c.update(images=c['images'][:1]),
            'cannot be split',
        ),
        (['--val', '0.2'], _without_id, '1 image entries have no'),
        (['--val', '0.2', '--images', '/nowhere'], None, 'none of the 5 images'),
    ],
)
def test_refused(split, capsys, args, change, told, tmp_path):
    content = data([[1]] * 5)
    if change:
        change(content)
    try:
        _, code, _, err = split(content, *args)
    except SystemExit as stop:
        code, err = stop.code, capsys.readouterr().err
    assert code == 2
    assert told in err
    assert [one.name for one in tmp_path.iterdir()] == ['ann.json']


@pytest.mark.parametrize('fails', ['write', 'rename'])
def test_both_files_or_none(write, command, tmp_path, monkeypatch, fails):
    """The disk is full for the second file."""
    path = write(data([[1]] * 5))
    owner, name = (pathlib.Path, 'write_text') if fails == 'write' else (os, 'replace')
    original, calls = getattr(owner, name), []

    def second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, 'No space left on device')
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, second)
    code, _, err = command('data', 'split', path, '--val', '0.2')
    assert (code, len(calls)) == (1, 2)
    assert 'No space left on device' in err
    assert [one.name for one in tmp_path.iterdir()] == ['ann.json']


def test_a_folder_that_takes_nothing(split, tmp_path):
    (tmp_path / 'file').write_text('')
    _, code, _, err = split(data([[1]] * 5), '--val', '0.2', '--out', tmp_path / 'file')
    assert code == 2
    assert err.endswith('[file-not-written]\n')
