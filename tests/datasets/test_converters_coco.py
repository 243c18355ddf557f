"""Labels of other tools become COCO: nothing moves, and nothing is lost in silence."""

import json
import os
import sys

import numpy as np
import pytest

from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.converters.conversion import (
    convert,
    kind_of,
)
from eca_mmdet.datasets.converters.labels import Choices
from eca_mmdet.datasets.images import open_images
from eca_mmdet.datasets.rules.check import check_images
from eca_mmdet.utils.errors import (
    MissingPackageError,
    UserError,
)
from tests.support import foreign_data
from tests.support.broken_data import check_annotations
from tests.support.foreign_data import (
    content,
    labelme,
    objects,
    photo,
    shape,
    write,
    yolo,
)

WRITERS = {
    'yolo': foreign_data.as_yolo,
    'voc': foreign_data.as_voc,
    'labelme': foreign_data.as_labelme,
    'cvat': foreign_data.as_cvat,
}


# Every format


@pytest.mark.parametrize('masks', [False, True], ids=['boxes', 'polygons'])
@pytest.mark.parametrize('kind', WRITERS)
def test_round_trip(tmp_path, kind, masks):
    coco = foreign_data.random_coco(np.random.default_rng(len(kind) + masks))
    folder = tmp_path / 'my data'
    WRITERS[kind](coco, folder, masks)
    before = sorted(folder.rglob('*'))
    assert kind_of(folder) == kind
    (one,) = convert(folder)
    expected = {image['file_name']: [] for image in coco['images']}
    files = {image['id']: image['file_name'] for image in coco['images']}
    names = {c['id']: c['name'] for c in coco['categories']}
    for a in coco['annotations']:
        entry = names[a['category_id']], a['bbox'], a['segmentation'] if masks else []
        expected[files[a['image_id']]].append(entry)
    found = objects(one)
    assert found.keys() == expected.keys()
    for name, entries in expected.items():
        assert len(found[name]) == len(entries)
        for (label, box, mask), seen in zip(entries, found[name], strict=True):
            assert seen[0] == label
            assert seen[1] == pytest.approx(box, abs=1e-3)
            assert [pytest.approx(points, abs=1e-3) for points in mask] == seen[2]
    sizes = {i['file_name']: (i['width'], i['height']) for i in coco['images']}
    assert {
        i['file_name']: (i['width'], i['height']) for i in content(one)['images']
    } == sizes
    assert sorted(folder.rglob('*')) == before  # nothing into the source
    assert one.file.parent == tmp_path / 'my data-coco'
    assert (one.image_count, one.annotation_count) == (6, len(coco['annotations']))
    assert one.found_count == one.annotation_count
    file = read_annotations(one.file)
    written, faults = file.content, file.faults
    faults += check_annotations(written)
    faults += check_images(written['images'], open_images(one.images, sizes))
    assert {fault.severity for fault in faults} <= {'note'}


def test_areas_are_of_the_mask_or_the_box(tmp_path):
    lines = ['0 0.5 0.5 0.2 0.4', '0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8']
    (one,) = convert(yolo(tmp_path / 'y', lines))
    box, polygon = content(one)['annotations']
    assert (box['bbox'], box['area']) == ([40, 15, 20, 20], 400)
    assert (polygon['bbox'], polygon['area']) == ([10, 10, 40, 30], 1200)
    assert [box['iscrowd'], polygon['iscrowd']] == [0, 0]


# YOLO


@pytest.mark.parametrize(
    ('names', 'ids'),
    [
        (('zebra', 'ant'), {1: 'zebra', 2: 'ant'}),
        ({0: 'zebra', 1: 'ant'}, {1: 'zebra', 2: 'ant'}),
        ({'10': 'ten', '9': 'nine', '1': 'one'}, {2: 'one', 10: 'nine', 11: 'ten'}),
        ({1: 'b', 0: 7}, {1: '7', 2: 'b'}),
    ],
)
def test_yolo_classes_keep_their_ids_and_gaps(tmp_path, names, ids):
    (one,) = convert(yolo(tmp_path / 'y', ['1 0.5 0.5 0.1 0.1'], names))
    found = content(one)
    assert {c['id']: c['name'] for c in found['categories']} == ids
    assert [c['id'] for c in found['categories']] == sorted(ids)
    assert found['annotations'][0]['category_id'] == 2


@pytest.mark.parametrize(
    ('line', 'box'),
    [
        ('0 0.512345 0.5 0.333333 0.25', [34.567850, 18.75, 33.3333, 12.5]),
        ('0.0 5e-1 .5 0.2 0.2', [40, 20, 20, 10]),
        ('0 0.5 0.5 0.2 0.2 0.93', [40, 20, 20, 10]),  # a score at the end
        ('0 0 0 0.2 0.2', [-10, -5, 20, 10]),  # over the edge: for data check
        ('0 0.5 0.5 0 0', [50, 25, 0, 0]),
    ],
)
def test_yolo_boxes(tmp_path, line, box):
    (one,) = convert(yolo(tmp_path / 'y', [line]))
    (found,) = content(one)['annotations']
    assert found['bbox'] == pytest.approx(box, abs=1e-3)
    assert found['segmentation'] == []


@pytest.mark.parametrize('tail', ['', ' 0.93'], ids=['points', 'points and score'])
def test_yolo_polygons_are_not_rounded(tmp_path, tail):
    line = '1 0.101 0.203 0.507 0.203 0.304 0.855' + tail
    (one,) = convert(yolo(tmp_path / 'y', [line]))
    (found,) = content(one)['annotations']
    assert found['segmentation'] == [[10.1, 10.15, 50.7, 10.15, 30.4, 42.75]]
    assert found['bbox'] == pytest.approx([10.1, 10.15, 40.6, 32.6])


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('0 0.5 0.5 0.2', 'no YOLO label'),
        ('cat 0.5 0.5 0.2 0.2', 'no YOLO label'),
        ('0 nan 0.5 0.2 0.2', 'no YOLO label'),
        ('0 0.1 0.1 0.2 inf 0.3 0.3', 'no YOLO label'),
        ('0 0.1 0.1 1e400 0.2 0.3 0.3', 'no YOLO label'),
        ('0.5 0.5 0.5 0.2 0.2', 'no YOLO label'),
        ('0 0.5 0.5 1e39 0.2', 'no YOLO label'),
        (f'{10**20} 0.5 0.5 0.2 0.2', 'no YOLO label'),
        ('2 0.5 0.5 0.2 0.2', 'class id that data.yaml does not name'),
        ('-1 0.5 0.5 0.2 0.2', 'class id that data.yaml does not name'),
        ('\x00\x01', 'no YOLO label'),
    ],
)
def test_yolo_lines_left_out_are_counted(tmp_path, line, reason):
    (one,) = convert(yolo(tmp_path / 'y', ['0 0.5 0.5 0.2 0.2', '', line]))
    (note,) = one.notes
    assert note.startswith('1 x ')
    assert reason in note
    assert 'a.txt:3' in note
    assert (one.annotation_count, one.found_count) == (1, 2)


BOX = '0 0.5 0.5 0.2 0.2'  # 40, 20, 20, 10


def spread(columns, count=12):
    """Random boxes in the image, with more random columns."""
    rng = np.random.default_rng(columns)
    sizes = rng.uniform(0.1, 0.3, (count, 2))
    centres = rng.uniform(0.2, 0.8, (count, 2))
    more = rng.uniform(0.1, 0.9, (count, columns))
    return np.concatenate([centres, sizes, more], 1).tolist()


def label(values):
    return ' '.join(['0', *(f'{value:g}' for value in values)])


@pytest.mark.parametrize(
    ('lines', 'more'),
    [
        ([f'{BOX} 0.9', f'{BOX} 7'], {}),  # a confidence or a track id
        ([f'{BOX} 0.9 {track}' for track in (1, 2, 3)], {}),
        ([f'{BOX} 0.87 1'], {}),
        ([f'{BOX} 0.87 1', f'{BOX} 0.4', BOX], {}),
        ([f'{BOX} 0.4 0.4 2 0.6 0.6 1', f'{BOX} 0.4 0.4 0 0.6 0.6 2'], {}),
        ([f'{BOX} 0.4 0.4 0.6 0.6 0.9'], {'kpt_shape': [2, 2]}),
        ([f'{BOX} 0.4 0.4 0.6 0.6 0.9 3'], {'kpt_shape': [2, 2]}),
        ([f'{BOX} 0.4 0.4 0.6 0.6'], {'kpt_shape': '(2, 2)'}),  # as Python writes it
    ],
)
def test_yolo_columns_after_a_box(tmp_path, lines, more):
    (one,) = convert(yolo(tmp_path / 'y', lines, **more))
    box = ('cat', [40, 20, 20, 10], [])
    assert objects(one) == {'a.jpg': [box] * len(lines)}
    assert 'the first five are read as a box' in one.notes[0]


SQUARE = '0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6'  # may be a box with keypoints


@pytest.mark.parametrize(
    ('lines', 'points'),
    [
        ([f'0 {SQUARE}', f'0 {SQUARE} 0.9'], 4),
        ([f'0 {SQUARE} 0.9 1'], 4),
        ([f'0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.6 0.9 {track}' for track in (2, 3)], 4),
        ([f'0 {SQUARE}', BOX], 4),
        (['0 0.1 0.1 0.5 0.1 0.5 0.9', '0 0.5 0.5 0.7 0.5 0.6 0.8'], 3),
        (['0 0.1 0.1 0.5 0.1 0.5 0.5 1.005 0.6'], 4),
    ],
)
def test_yolo_columns_of_outlines(tmp_path, lines, points):
    (one,) = convert(yolo(tmp_path / 'y', lines))
    masks = [mask for *_, mask in objects(one)['a.jpg'] if mask]
    assert {len(mask) for (mask,) in masks} == {2 * points}
    assert len(masks) == sum(line != BOX for line in lines)


@pytest.mark.parametrize(
    ('lines', 'option'),
    [
        ([label(values) for values in spread(2)], 'labels'),
        ([label(values) for values in spread(4)], 'labels'),
        ([label(values) for values in spread(51)], 'labels'),
        (
            [label([*values, 0.9, track]) for track, values in enumerate(spread(6))],
            None,
        ),
        ([f'{BOX} -0.4'], 'labels'),  # a turned box
        ([f'{BOX} 1.57'], 'labels'),
        (['0 0.87 0.5 0.5 0.25 0.25'], 'labels'),  # the confidence is first?
        (['0 0.1 0.1 0.5 0.1 0.5 0.5 0.4 0.6 0.9 1'], 'labels'),  # a point, or an end?
        (['0 48 32 20 20'], 'units'),
        ([BOX, BOX, '0 48 32 20 20'], 'units'),
        (['0 0.5 0.5 -0.2 0.2'], 'units'),
        (['0 0.2 0.2 0.3 0.2 0.3 0.4 1.2 0.4'], 'units'),
        ([BOX, '0 0.1 0.1 0.5 0.1 0.5 0.5 0.4 -0.6'], 'units'),
    ],
)
def test_yolo_columns_that_fit_two_readings_are_refused(tmp_path, lines, option):
    with pytest.raises(UserError, match=f'--{option or "labels"} ') as caught:
        convert(yolo(tmp_path / 'y', lines))
    assert caught.value.code == 'option-missing'
    assert str(tmp_path / 'y/labels/a.txt:') in str(caught.value)
    assert not (tmp_path / 'y-coco').exists()


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ([f'{BOX} 0.4 0.4 0.6 0.6 0.9 0.3'], 'not those of kpt_shape'),  # no track id
        ([BOX, f'0 {SQUARE} 0.1 0.5 0.2 0.8'], 'not those of kpt_shape'),
        (['0 0.1 0.2 0.5 0.6', '0 0.6 0.6 0.9 0.7'] * 2, 'may be two corners'),
        (['0 0 0.2 0.3 0.6', '0 0.6 0.1 0.4 0.7'] * 3, 'may be a corner and a size'),
    ],
)
def test_yolo_columns_that_contradict_their_description_are_refused(
    tmp_path, lines, message
):
    y = yolo(tmp_path / 'y', lines, kpt_shape=[2, 2])
    with pytest.raises(UserError, match=message) as caught:
        convert(y)
    assert caught.value.code == 'option-missing'
    (one,) = convert(y, None, Choices('boxes'))
    assert one.annotation_count == len(lines)


@pytest.mark.parametrize(
    ('line', 'choices', 'expected'),
    [
        (f'{BOX} 0.45 0.45 0.55 0.6', Choices('boxes'), ([40, 20, 20, 10], [])),
        (f'{BOX} 1.57', Choices('boxes'), ([40, 20, 20, 10], [])),
        ('0 48 32 20 10', Choices(units='pixels'), ([38, 27, 20, 10], [])),
        ('0 48 32 20 10 0.9', Choices(units='pixels'), ([38, 27, 20, 10], [])),
        (
            '0 0.5 0.5 0.25 0.25 0.9 0.4',
            Choices('polygons'),
            ([25, 12.5, 65, 12.5], [[50, 25, 25, 12.5, 90, 20]]),
        ),
        (
            '0 8 2 20 4 9 30',
            Choices('polygons', 'pixels'),
            ([8, 2, 12, 28], [[8, 2, 20, 4, 9, 30]]),
        ),
        ('0 0.5 0.5 1.2 0.2', Choices(units='normalized'), ([-10, 20, 120, 10], [])),
    ],
)
def test_yolo_options_decide(tmp_path, line, choices, expected):
    (one,) = convert(yolo(tmp_path / 'y', [line]), None, choices)
    ((_, box, mask),) = objects(one)['a.jpg']
    assert box == pytest.approx(expected[0], abs=1e-4)
    assert mask == expected[1]


def test_options_of_another_format_are_refused(tmp_path, command):
    y = yolo(tmp_path / 'y', [BOX])
    code, _, err = command('data', 'convert', y, '--voc-origin', '0')
    assert code == 2
    assert err.endswith('[option-conflict]\n')


@pytest.mark.parametrize(
    ('raw', 'names', 'told'),
    [
        (b'names: cup, big fork', ('cup', 'big fork'), None),
        (b'names: cup', ('cup',), None),
        (b'names: |\n  cup\n  fork', ('cup', 'fork'), None),
        (b"names: \"['cup', 'fork']\"\nnc: 2", ('cup', 'fork'), None),
        (b'names: lists\\cups.names', ('cup', 'mug'), None),
        ('names: [猫, 小狗]'.encode('gbk'), ('猫', '小狗'), 'GBK'),
        ('names: [Größe, naïve]'.encode('latin-1'), ('Größe', 'naïve'), 'Latin-1'),
        ('names: [é, 猫]'.encode('utf-16'), ('é', '猫'), None),
    ],
)
def test_yolo_names_as_text_and_in_other_encodings(tmp_path, raw, names, told):
    y = yolo(tmp_path / 'y', [BOX])
    write(y / 'lists/cups.names', 'cup\nmug\n')
    (y / 'data.yaml').write_bytes(
        raw
        + '\ntrain: images\n'.encode('utf-16-le' if raw[:2] == b'\xff\xfe' else 'ascii')
    )
    (one,) = convert(y)
    assert one.classes == names
    expected = (f'1 x files that are not UTF-8: read as {told} (data.yaml)',)
    assert one.notes == (expected if told else ())


def test_yolo_images_of_every_kind(tmp_path):
    """Empty, without a label file, turned, in subfolders, damaged, left over."""
    y = yolo(tmp_path / 'y', ['0 0.5 0.5 0.2 0.2'])
    for name in ('none.png', 'empty.bmp', 'deep/er/ü x.webp'):
        photo(y / 'images' / name)
    photo(y / 'images' / 'turned.jpg', (100, 50), orientation=6)
    for name in ('empty', 'deep/er/ü x', 'turned', 'broken', 'gone'):
        text = '' if name == 'empty' else '\ufeff1 0.5 0.5 0.2 0.2\r\n'
        write(y / 'labels' / f'{name}.txt', text)
    whole = photo(y / 'images' / 'broken.jpg').read_bytes()
    (y / 'images' / 'broken.jpg').write_bytes(whole[: len(whole) // 2])
    (one,) = convert(y)
    assert objects(one) == {
        'a.jpg': [('cat', [40, 20, 20, 10], [])],
        'empty.bmp': [],
        'none.png': [],
        'turned.jpg': [('dog', [20, 40, 10, 20], [])],
        'deep/er/ü x.webp': [('dog', [40, 20, 20, 10], [])],
    }
    by_name = {i['file_name']: i for i in content(one)['images']}
    assert (by_name['turned.jpg']['width'], by_name['turned.jpg']['height']) == (
        50,
        100,
    )
    assert (one.annotation_count, one.found_count) == (3, 5)
    notes = ' | '.join(one.notes)
    assert '1 x images without a label file: kept, without objects' in notes
    assert (
        '1 x images left out that cannot be read, with their objects (broken.' in notes
    )
    assert (
        'label files left out that no image of a split uses (gone.txt, 1 obj' in notes
    )
    assert len(one.notes) == 3


@pytest.mark.parametrize(
    ('text', 'folders'),
    [
        ('train: images/train\nval: images/val\n', ['images/train', 'images/val']),
        ('path: ../y\ntrain: images/train\nval: images/val\n', None),
        ('path: /home/else/y\ntrain: images/train\nval: images/val\n', None),
        ('path: coco8\ntrain: images/train\nval: images/val\n', None),
        ('train: ../images/train\nval: ../images/val\n', None),  # Roboflow's
        ('train: [images/train]\nvalid: images/val\n', None),
        ('train: train.txt\nval: images/val\n', None),
        ('path: .\\\\\ntrain: images\\train\nval: .\\images\\val\n', None),
        ('train: C:\\me\\y\\images\\train\nval: /else/y/images/val\n', None),
        ('train: windows.txt\nval: images/val\n', None),
        ('train: "images\\train"\nval:\n- ".\\images\\val"\n', None),
        ('train: "images/tr\\x61in"\nval: "images\\\\val"\n', None),
    ],
)
def test_yolo_finds_the_splits(tmp_path, text, folders):
    y = tmp_path / 'y'
    for split in ('train', 'val'):
        photo(y / 'images' / split / 'a.jpg')
        write(y / 'labels' / split / 'a.txt', '0 0.5 0.5 0.2 0.2')
    write(y / 'train.txt', './images/train/a.jpg\n')
    write(y / 'windows.txt', 'D:\\sets\\y\\images\\train\\a.jpg\n')
    write(y / 'data.yaml', text + 'names: [cat]\n')
    train, val = convert(y)
    assert (train.split, val.split) == ('train', 'val')
    for one, split in ((train, 'train'), (val, 'val')):
        assert one.images.resolve() == y / 'images' / split
        assert objects(one) == {'a.jpg': [('cat', [40, 20, 20, 10], [])]}
    guesses = [
        word in text for word in ('/home/else', 'coco8', 'C:', '/else', 'windows')
    ]
    assert len(train.notes) == sum(guesses) - ('/home/else' in text)


def test_yolo_with_a_list_of_classes_and_labels_beside(tmp_path):
    y = tmp_path / 'y'
    photo(y / 'a.jpg')
    write(y / 'a.txt', '1 0.5 0.5 0.2 0.2')
    write(y / 'classes.txt', 'cat\nbig dog\n')
    (one,) = convert(y)
    assert one.file.name == 'annotations.json'
    assert objects(one) == {'a.jpg': [('big dog', [40, 20, 20, 10], [])]}
    assert (one.split, one.notes) == ('', ())


@pytest.mark.parametrize('lists', [False, True])
def test_yolo_splits_without_a_description(tmp_path, lists):
    for split in ('train', 'test'):
        folder = 'obj' if lists else f'set/{split}/images'
        photo(tmp_path / folder / f'{split}.jpg')
        write(tmp_path / folder / f'{split}.txt', BOX)
        if lists:
            write(tmp_path / f'{split}.txt', f'data\\obj\\{split}.jpg\n')
    write(tmp_path / 'obj.names', 'cat')
    found = convert(tmp_path)
    names = [[i['file_name'] for i in content(one)['images']] for one in found]
    assert [one.split for one in found] == ['train', 'test']
    assert [name[0].rpartition('/')[2] for name in names] == ['train.jpg', 'test.jpg']


def test_yolo_images_outside_the_folder_are_told(tmp_path):
    y = yolo(tmp_path / 'y', [BOX])
    photo(tmp_path / 'b.jpg')
    write(tmp_path / 'b.txt', BOX)
    write(y / 'list.txt', f'images/a.jpg\n../b.jpg\n{tmp_path / "gone.jpg"}\n')
    write(y / 'data.yaml', 'train: list.txt\nnames: [cat]\n')
    (one,) = convert(y)
    assert sorted(objects(one)) == ['b.jpg', 'y/images/a.jpg']
    assert [note[:48] for note in one.notes] == [
        f'1 x images of list.txt outside of {y} (../b.jpg)'[:48],
        '1 x images left out that list.txt names and are not there'[:48],
    ]


def test_yolo_images_of_other_splits_in_a_folder_are_told(tmp_path):
    for name in ('train/a', 'test/b'):
        photo(tmp_path / 'images' / f'{name}.jpg')
        write(tmp_path / 'labels' / f'{name}.txt', BOX)
    write(tmp_path / 'data.yaml', 'train: images\nnames: [cat]\n')
    (train,) = convert(tmp_path)
    assert train.image_count == 2
    assert train.notes == ('1 x folders of train with images of test below (images)',)


def test_yolo_labels_that_no_image_uses_are_counted(tmp_path):
    line = '0 0.5 0.5 0.2 0.2'
    photo(tmp_path / 'images/train/1.jpg')
    photo(tmp_path / 'images/train/1.png')
    photo(tmp_path / 'images/val/2.jpg')
    for path in (
        'images/train/1',
        'images/train/9',  # without an image, beside the others
        'labels/val/2',
        'images/val/2',  # the one in labels/ is used
        'labels/val/gone/3',
        'labels/test/4',  # of a split that data.yaml does not name
        'images/val/notes',
    ):
        write(tmp_path / f'{path}.txt', 'a note' if 'notes' in path else line)
    text = 'train: images/train\nval: images/val\nnames: [cat]\n'
    write(tmp_path / 'data.yaml', text)
    train, val = convert(tmp_path)
    assert list(objects(train)) == ['1.jpg', '1.png']
    assert (train.annotation_count, train.found_count) == (2, 6)
    assert (val.annotation_count, val.found_count, val.notes) == (1, 1, ())
    assert train.notes == (
        '1 x images that have the label file of another too (1.png)',
        '4 x label files left out that no image of a split uses (9.txt, 1 object, '
        '2.txt, 1 object, 4.txt, 1 object, ...)',
    )
    write(tmp_path / 'data.yaml', text.replace('images/val', 'images/train'))
    train, val = convert(tmp_path, tmp_path.with_name('same'))
    assert (train.found_count, val.found_count) == (7, 2)


def test_yolo_without_any_label_is_refused(tmp_path):
    y = yolo(tmp_path / 'y', [])
    (y / 'labels' / 'a.txt').rename(y / 'a.txt')
    with pytest.raises(UserError, match=r'no image of .*y has a label file'):
        convert(y)


def test_a_list_of_classes_alone_is_no_yolo_folder(tmp_path):
    labelme(tmp_path / 'l', [shape('cat', [[1, 1], [9, 1], [9, 9]])])
    write(tmp_path / 'l' / 'classes.txt', 'cat')
    assert kind_of(tmp_path / 'l') == 'labelme'


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('names: [a]\n', 'none of'),
        ('names: [a]\ntrain: nowhere\n', 'none of'),
        ('names: {a: b}\ntrain: images\n', 'whole numbers'),
        ('train: images\n', "no 'names'"),
        ('nc: 3\n', 'no known format'),
        ('names: [[a]]\ntrain: images\n', 'must be texts'),
        ('names: coco.names\ntrain: images\n', 'of no file'),
        ('names: cup fork\nnc: 2\ntrain: images\n', 'another number'),
        ('names: [a\ntrain: images\n', 'is not YAML'),
        ('names: !!python/object/apply:os.system [id]\ntrain: i\n', 'is not YAML'),
    ],
)
def test_yolo_descriptions_refused(tmp_path, text, told):
    y = yolo(tmp_path / 'y', ['0 0.5 0.5 0.2 0.2'])
    write(y / 'data.yaml', text)
    with pytest.raises(UserError, match=told):
        convert(y)
    assert not (tmp_path / 'y-coco').exists()


def test_yaml_that_grows_is_not_spelt_out(tmp_path):
    lines = ['a0: &a0 [x]'] + [
        f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 9)}]' for n in range(1, 30)
    ]
    y = yolo(tmp_path / 'y', [])
    write(y / 'data.yaml', '\n'.join([*lines, 'names: *a29', 'train: images']))
    with pytest.raises(UserError, match='must be texts'):
        convert(y)


# COCO


@pytest.mark.parametrize(
    ('files', 'images', 'expected'),
    [
        ({'annotations/instances_default.json': 'a.jpg'}, ['images/a.jpg'], ['images']),
        (
            {'annotations/instances_default.json': 'a.jpg'},
            ['images/default/a.jpg'],
            ['images/default'],
        ),
        (
            {
                'train/_annotations.coco.json': 'a.jpg',
                'valid/_annotations.coco.json': 'b.jpg',
            },
            ['train/a.jpg', 'valid/b.jpg'],
            ['train', 'valid'],
        ),
        (
            {
                'annotations/instances_train2017.json': 'a.jpg',
                'annotations/instances_val2017.json': 'b.jpg',
            },
            ['train2017/a.jpg', 'val2017/b.jpg'],
            ['train2017', 'val2017'],
        ),
        ({'all.json': 'photos/x/a.jpg'}, ['photos/x/a.jpg'], ['.']),
    ],
)
def test_coco_exports_are_found_as_they_are(tmp_path, files, images, expected):
    for name, image in files.items():
        write(
            tmp_path / name,
            {
                'images': [{'id': 1, 'file_name': image, 'width': 100, 'height': 50}],
                'annotations': [],
                'categories': [{'id': 1, 'name': 'cat'}],
            },
        )
    write(tmp_path / 'annotations' / 'captions_train2017.json', {'annotations': []})
    for image in images:
        photo(tmp_path / image)
    before = sorted(tmp_path.rglob('*'))
    assert kind_of(tmp_path) == 'coco'
    found = convert(tmp_path)
    assert [one.images for one in found] == [tmp_path / one for one in expected]
    assert [one.file for one in found] == [tmp_path / one for one in files]
    assert sorted(tmp_path.rglob('*')) == before
    assert not any(one.written for one in found)
    (single,) = convert(tmp_path / next(iter(files)))
    assert single.images == tmp_path / expected[0]


@pytest.mark.parametrize(
    ('names', 'files', 'expected'),
    [
        (['images\\a.jpg'], ['images/a.jpg'], ['images/a.jpg']),
        (['..\\..\\up\\4\\a.jpg', 'x.jpg'], ['i/a.jpg'], ['i/a.jpg', 'x.jpg']),
        (['/data/upload/1/a.jpg'], ['b/a.jpg'], ['b/a.jpg']),
        (['/data/local-files/?d=p/a%20b.jpg'], ['p/a b.jpg'], ['p/a b.jpg']),
        (
            ['s\\t\\1.jpg', 's\\v\\1.jpg'],
            ['t/1.jpg', 'v/1.jpg'],
            ['t/1.jpg', 'v/1.jpg'],
        ),
        (
            ['x\\1.jpg', 'x\\2.jpg'],
            ['t/1.jpg', 'v/1.jpg', '2.jpg'],
            ['x\\1.jpg', '2.jpg'],
        ),
        (['x\\1.jpg', '1.jpg', 'y\\2.jpg'], ['1.jpg', '2.jpg'], [0, 1, '2.jpg']),
    ],
)
def test_coco_names_of_another_machine_are_corrected(tmp_path, names, files, expected):
    for file in files:
        photo(tmp_path / 'c' / file)
    images = [
        {'id': number, 'file_name': name, 'width': 100, 'height': 50}
        for number, name in enumerate(names)
    ]
    entries = {
        'images': images,
        'annotations': [],
        'categories': [{'id': 1, 'name': 'a'}],
    }
    before = write(tmp_path / 'c' / 'result.json', entries).read_bytes()
    (one,) = convert(tmp_path / 'c')
    assert one.file == tmp_path / 'c-coco' / 'annotations.json'
    expected = [names[name] if type(name) is int else name for name in expected]
    assert [image['file_name'] for image in content(one)['images']] == expected
    changed = sum(a != b for a, b in zip(names, expected, strict=True))
    assert one.notes[0].startswith(f'{changed} x file names corrected to the only file')
    lost = any(not (one.images / name).is_file() for name in expected)
    assert any('images that are not there' in note for note in one.notes) == lost
    assert (tmp_path / 'c' / 'result.json').read_bytes() == before
    assert (one.written, convert(tmp_path / 'c')[0].written) == (True, False)


def test_coco_of_images_in_folders_of_two_splits_is_noted(tmp_path):
    images = []
    for name in ('train2017/1.jpg', 'test/2.jpg'):
        photo(tmp_path / name)
        images.append({'id': len(images), 'file_name': name})
    content = {'images': images, 'categories': [{'id': 1, 'name': 'a'}]}
    (one,) = convert(write(tmp_path / 'r.json', content))
    assert one.notes == ('1 x files with images of test, train in one (r.json)',)


def test_coco_names_that_nothing_fits_are_refused(tmp_path):
    for file in ('t/1.jpg', 'v/1.jpg'):
        photo(tmp_path / file)
    images = [{'id': 1, 'file_name': 'x\\1.jpg'}]
    categories = [{'id': 1, 'name': 'a'}]
    write(tmp_path / 'r.json', {'images': images, 'categories': categories})
    with pytest.raises(UserError, match='no image of') as caught:
        convert(tmp_path)
    assert caught.value.code == 'no-images'


@pytest.mark.parametrize('padding', [0, 300_000])
def test_coco_is_told_by_its_keys_wherever_they_are(tmp_path, padding):
    images = [{'id': 1, 'file_name': 'a' * padding}]
    file = write(tmp_path / 'a.json', {'images': images, 'categories': [], 'x': images})
    assert kind_of(file) == 'coco'
    write(file, {'images': images, 'x': images})
    assert kind_of(file) is None
    write(file, '')
    assert kind_of(file) is None


# The command and its files


def test_the_command_writes_once_and_never_over_another(tmp_path, command):
    y = yolo(tmp_path / 'y', ['0 0.5 0.5 0.2 0.2', '0 bad'])
    code, out, _ = command('data', 'convert', y)
    file = tmp_path / 'y-coco' / 'train.json'
    assert code == 0
    assert out.splitlines() == [
        f'{file}: written',
        '  1 image, 1 annotation of 2 in the source',
        f'  images are relative to {y / "images"}',
        '  classes: cat, dog',
        '  1 x lines left out that are no YOLO label (a.txt:2: 0 bad)',
    ]
    text = file.read_text()
    code, out, _ = command('data', 'convert', y)
    assert (code, file.read_text()) == (0, text)
    assert out.startswith(f'{file}: there already, with the same content')
    write(y / 'labels' / 'a.txt', '1 0.5 0.5 0.2 0.2')
    code, _, err = command('data', 'convert', y)
    assert (code, file.read_text()) == (2, text)
    assert err.endswith('[output-exists]\n')
    code, out, _ = command('data', 'convert', y, '--out', tmp_path / 'other', '--json')
    (one,) = json.loads(out)['files']
    assert (code, one['annotation_count'], one['kind']) == (0, 1, 'yolo')


@pytest.mark.parametrize('inside', ['', 'sub', 'link'])
def test_nothing_is_written_into_the_source(tmp_path, inside, command):
    y = yolo(tmp_path / 'y', [])
    (tmp_path / 'link').symlink_to(y)
    out = tmp_path / 'link' / 'x' if inside == 'link' else y / inside
    code, _, err = command('data', 'convert', y, '--out', out)
    assert code == 2
    assert 'is inside the source' in err
    assert not list(tmp_path.rglob('*.json'))


def test_a_link_in_the_place_of_the_output_is_not_followed(tmp_path):
    y = yolo(tmp_path / 'y', [BOX])
    (tmp_path / 'other').mkdir()
    (tmp_path / 'y-coco').symlink_to(tmp_path / 'other')
    with pytest.raises(UserError, match='is a link'):
        convert(y)
    assert os.listdir(tmp_path / 'other') == []


@pytest.mark.parametrize('head', [b'PK\x03\x04<annotation>', b'\x1f\x8b<annotation>'])
def test_archives_are_to_be_unpacked(tmp_path, head):
    (tmp_path / 'export').write_bytes(head)
    with pytest.raises(UserError, match='is an archive') as caught:
        convert(tmp_path / 'export')
    assert caught.value.code == 'unsupported-format'


def test_all_files_or_none(tmp_path):
    y = tmp_path / 'y'
    for split in ('train', 'val'):
        photo(y / 'images' / split / 'a.jpg')
        write(y / 'labels' / split / 'a.txt', '')
    write(
        y / 'data.yaml', {'train': 'images/train', 'val': 'images/val', 'names': ['a']}
    )
    write(tmp_path / 'y-coco' / 'val.json', 'mine')
    with pytest.raises(UserError, match='val.json') as caught:
        convert(y)
    assert caught.value.code == 'output-exists'
    assert os.listdir(tmp_path / 'y-coco') == ['val.json']


@pytest.mark.parametrize('what', ['nothing', 'empty', 'text', 'pictures'])
def test_other_things_are_refused(tmp_path, what, command):
    path = tmp_path / what
    if what == 'text':
        write(path, 'x')
    elif what != 'nothing':
        path.mkdir()
    if what == 'pictures':
        photo(path / 'a.jpg')
    assert kind_of(path) is None
    code, _, err = command('data', 'convert', path)
    assert code == 2
    assert ('does not exist' if what == 'nothing' else 'no known format') in err
    code = 'file-not-found' if what == 'nothing' else 'unsupported-format'
    assert f'[{code}]' in err


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    with pytest.raises(UserError, match='none of the 2 objects can be read'):
        convert(yolo(tmp_path / 'y', ['x', '9 0.5 0.5 0.2 0.2']))
    assert not (tmp_path / 'y-coco').exists()


@pytest.mark.parametrize('package', ['supervision.dataset.formats.yolo', 'yaml'])
def test_a_package_that_is_missing_is_named(tmp_path, package, monkeypatch):
    y = yolo(tmp_path / 'y', ['0 0.5 0.5 0.2 0.2'])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"pip install 'eca-mmdet\[data\]'"):
        convert(y)
