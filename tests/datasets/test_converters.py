"""Pascal VOC, LabelMe and CVAT become COCO: each kind of label, and each bad one."""

import base64
import json
import re

import numpy as np
import pytest

from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.converters.conversion import convert
from eca_mmdet.datasets.converters.files import find_lists
from eca_mmdet.datasets.converters.labels import Choices
from eca_mmdet.utils.errors import UserError
from tests.support.broken_data import check_annotations
from tests.support.foreign_data import (
    content,
    cvat,
    cvat_file,
    labelme,
    labelme_file,
    objects,
    photo,
    shape,
    voc,
    voc_file,
    voc_object,
    write,
)

# Pascal VOC


@pytest.mark.parametrize(
    ('boxes', 'stated', 'origin', 'told'),
    [
        ([[1, 11, 20, 30]], None, 1, 'of 1 boxes 0 begin at 0, 0 have decimals'),
        ([[9, 11, 20, '30.0']], None, 1, '0 have decimals'),
        ([['9.0', '11.0', '20.0', '30.0']], None, 0, '1 have decimals'),
        ([[9, 11, 20, 30]], 0, 0, '--voc-origin'),
        (
            [[0, 11, 20, 30], [5, 6, 9, 9]],
            None,
            0,
            'of 2 boxes 1 begin at 0, 0 have',
        ),
        ([[10.5, 12.25, 40.75, 44]], None, 0, '0 begin at 0, 1 have decimals'),
        ([[9, 12, 40, 44.5], [5, 6, 9, 9]], None, 0, '1 have decimals'),
        ([[9, 12, 40, 44.5], [5, 6, 9, 9]], 1, 1, '--voc-origin'),
        ([[9, 12, 40, 44.5], *[[5, 6, 9, 9]] * 30], None, 1, ', 1 have decimals'),
    ],
)
def test_voc_pixels_are_counted_from_0_or_1(tmp_path, boxes, stated, origin, told):
    corners = ''.join(f'<x>{x}</x><y>{y}</y>' for x, y in ((5, 5), (9, 5), (9, 9)))
    triangle = f'<polygon>{corners}</polygon>'
    entries = [voc_object('cat', box, triangle) for box in boxes]
    (one,) = convert(
        voc(tmp_path / 'v', {'a': entries}), None, Choices(voc_origin=stated)
    )
    mask = [[value - origin for value in (5, 5, 9, 5, 9, 9)]]
    for found, box in zip(objects(one)['a.jpg'], boxes, strict=True):
        x1, y1, x2, y2 = map(float, box)
        x1, y1 = x1 - origin, y1 - origin
        assert found == ('cat', [x1, y1, x2 - x1, y2 - y1], mask)
    assert one.notes[0].startswith(f'pixels are counted from {origin} (')
    assert told in one.notes[0]


def test_voc_classes_are_in_alphabetical_order_in_every_split(tmp_path):
    v = voc(
        tmp_path / 'v',
        {
            '1': [voc_object('zebra', [1, 1, 9, 9])],
            '2': [voc_object('ant', [1, 1, 9, 9])],
            '3': [],
            '4': [],
        },
    )
    write(v / 'ImageSets/Main/train.txt', '1\n3\n5\n')
    write(v / 'ImageSets/Main/val.txt', '2  1\n')
    photo(v / 'JPEGImages/bare.jpg')
    train, val = convert(v)
    assert train.classes == val.classes == ('ant', 'zebra')
    assert objects(train) == {'1.jpg': [('zebra', [0, 0, 9, 9], [])], '3.jpg': []}
    assert objects(val) == {'2.jpg': [('ant', [0, 0, 9, 9], [])]}
    notes = ' | '.join(train.notes)
    assert '1 x images left out that train.txt names and no XML has (5)' in notes
    assert 'files left out that are in no split of ImageSets/Main (4.xml, 0 o' in notes
    assert (
        '2 x images left out that no XML file of a split describes (4.jpg, b' in notes
    )


def test_voc_flags(tmp_path):
    extra = '<difficult>1</difficult><truncated>1</truncated>'
    entries = [
        voc_object('cat', [1, 1, 9, 9], extra),
        voc_object('cat', [1, 1, 9, 9], '<difficult>0</difficult>'),
    ]
    (one,) = convert(voc(tmp_path / 'v', {'a': entries}))
    first, second = content(one)['annotations']
    assert (first['iscrowd'], first['difficult'], first['truncated']) == (1, 1, 1)
    assert (second['iscrowd'], 'difficult' in second) == (0, False)
    assert one.notes[1:] == ("1 x objects marked difficult: 'iscrowd' 1 (a.jpg)",)


@pytest.mark.parametrize(
    'bad',
    [
        '<object><name>cat</name></object>',
        '<object><bndbox/></object>',
        voc_object('cat', ['x', 1, 2, 3]),
        voc_object('cat', ['nan', 1, 2, 3]),
        voc_object('cat', ['1e39', 1, 2, 3]),
        voc_object(' ', [1, 2, 3, 4]),
    ],
)
def test_voc_objects_left_out_are_counted(tmp_path, bad):
    good = voc_object('cat', [1, 1, 9, 9])
    (one,) = convert(voc(tmp_path / 'v', {'a': [bad, good]}))
    assert (one.annotation_count, one.found_count) == (1, 2)
    assert one.notes[1].startswith('1 x malformed objects left out (a.jpg: ')


def test_voc_polygons_left_out_leave_the_box(tmp_path):
    points = enumerate([(2, 2), (9, 2), (9, 9)], 1)
    good = ''.join(f'<x{n}>{x}</x{n}><y{n}>{y}</y{n}>' for n, (x, y) in points)
    entries = [
        voc_object(
            'cat', [1, 1, 9, 9], f'<polygon>{bad}</polygon><polygon>{good}</polygon>'
        )
        for bad in ('<x1>1</x1>', '<pt><x>1</x></pt>', '<x1>a</x1><y1>1</y1>')
    ]
    (one,) = convert(voc(tmp_path / 'v', {'a': entries}))
    expected = ('cat', [0, 0, 9, 9], [[1, 1, 8, 1, 8, 8]])
    assert objects(one) == {'a.jpg': [expected] * 3}
    assert one.notes[1].startswith('3 x malformed polygons left out; the boxes stay')


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    '<annotation><object><name>&b;</name></object></annotation>'
)


@pytest.mark.parametrize('bad', [LAUGHS, '<annotation><obj', '<annotation>\x00'])
def test_voc_files_that_cannot_be_read_are_told(tmp_path, bad):
    v = voc(tmp_path / 'v', {'a': [voc_object('cat', [1, 1, 9, 9])], 'b': []})
    write(v / 'Annotations/b.xml', bad)
    (one,) = convert(v)
    assert list(objects(one)) == ['a.jpg']
    assert '1 x label files left out that cannot be read' in ' | '.join(one.notes)
    assert '1 x images left out that no XML file' in ' | '.join(one.notes)


def test_an_external_entity_is_not_read(tmp_path):
    secret = write(tmp_path / 'secret', 'hush')
    text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>' + voc_file(
        'a.jpg', ['<object><name>&x;</name></object>']
    )
    v = voc(tmp_path / 'v', {'a': [], 'b': [voc_object('cat', [1, 1, 9, 9])]})
    write(v / 'Annotations/a.xml', text)
    (one,) = convert(v)
    assert 'hush' not in one.file.read_text()
    assert list(objects(one)) == ['b.jpg']


@pytest.mark.parametrize(
    ('orientation', 'box'),
    [
        # Stored 100 x 50, labelled there: x 10 to 30, y 5 to 15. Seen 50 x 100.
        (5, [5, 10, 10, 20]),
        (6, [35, 10, 10, 20]),
        (7, [35, 70, 10, 20]),
        (8, [5, 70, 10, 20]),
    ],
)
def test_labels_drawn_before_the_turn_are_turned(tmp_path, orientation, box):
    v = voc(tmp_path / 'v', {'a': [voc_object('cat', [11, 6, 30, 15])]})
    photo(v / 'JPEGImages/a.jpg', (100, 50), orientation)
    (one,) = convert(v)
    assert objects(one) == {'a.jpg': [('cat', box, [])]}
    (image,) = content(one)['images']
    assert (image['width'], image['height']) == (50, 100)
    assert one.notes[1].startswith('1 x images whose labels were drawn before the turn')


def test_polygons_are_turned_too(tmp_path):
    shapes = [shape('cat', [[10, 5], [30, 5], [30, 15]])]
    folder = labelme(tmp_path / 'l', shapes)
    photo(folder / 'a.jpg', (100, 50), orientation=6)
    (one,) = convert(folder)
    outline = [[45, 10, 45, 30, 35, 30]]
    assert objects(one) == {'a.jpg': [('cat', [35, 10, 10, 20], outline)]}


@pytest.mark.parametrize('size', [(64, 64), (50, 100)])
def test_labels_of_another_size_are_told(tmp_path, size):
    v = voc(tmp_path / 'v', {'a': [voc_object('cat', [11, 6, 30, 15])]})
    photo(v / 'JPEGImages/a.jpg', size)
    (one,) = convert(v)
    assert objects(one) == {'a.jpg': [('cat', [10, 5, 20, 10], [])]}
    assert '1 x label files that state another size' in one.notes[1]


# Which image the labels belong to


def labelled(folder, kind, names):
    """Write label files with an own class and the image's name that each states."""
    entries = []
    for path, stated in names.items():
        box = [path, [[1, 1], [9, 9]], 'rectangle']
        if kind == 'voc':
            text = voc_file(stated, [voc_object(path, [2, 2, 9, 9])])
            write(folder / 'Annotations' / f'{path}.xml', text)
        elif kind == 'labelme':
            write(folder / f'{path}.json', labelme_file(stated, [shape(*box)]))
        else:
            name = f'{path.rpartition("/")[0]}/{stated}'.lstrip('/')
            box = f'<box label="{path}" xtl="1" ytl="1" xbr="9" ybr="9"/>'
            entries.append(f'<image name="{name}">{box}</image>')
    if entries:
        write(folder / 'annotations.xml', cvat_file(entries))


FOLDERS = {'voc': 'JPEGImages', 'labelme': '', 'cvat': 'images'}


@pytest.mark.parametrize(
    ('names', 'images', 'expected'),
    [
        # The image of a/1 is missing, in either order.
        ({'a/1': '1.png', 'b/1': '1.png'}, ['b/1'], {'b/1': 'b/1'}),
        ({'c/1': '1.png', 'b/1': '1.png'}, ['b/1'], {'b/1': 'b/1'}),
        # b/2 has no labels, which are not those of a/2.
        ({'a/2': '2.png', 'b/1': '1.png'}, ['b/1', 'b/2'], {'b/1': 'b/1'}),
        ({'a/2': '2.png', 'a/1': '1.png'}, ['a/1', 'b/2'], {'a/1': 'a/1'}),
        # Two without an image of their own want the same one.
        (
            {'a/1': '1.png', 'c/1': '1.png', 'd/5': '5.png'},
            ['b/1', 'd/5'],
            {'d/5': 'd/5'},
        ),
        # Every image is there; names are shared.
        (
            {'a/1': '1.png', 'b/1': '1.png', '1': '1.png'},
            ['1', 'b/1', 'a/1'],
            {'a/1': 'a/1', 'b/1': 'b/1', '1': '1'},
        ),
    ],
)
@pytest.mark.parametrize('kind', FOLDERS)
def test_no_labels_land_on_another_image(tmp_path, kind, names, images, expected):
    root = tmp_path / 's'
    for one in images:
        photo(root / FOLDERS[kind] / f'{one}.png')
    labelled(root, kind, names)
    (one,) = convert(root)
    found = {
        (one.images / name).relative_to(root / FOLDERS[kind]).with_suffix(''): things
        for name, things in objects(one).items()
    }
    assert {str(k): [t[0] for t in v] for k, v in found.items()} == {
        image: [label] for label, image in expected.items()
    }
    assert (one.annotation_count, one.found_count) == (len(expected), len(names))
    lost = len(names) - len(expected)
    told = [note for note in one.notes if 'not there' in note or 'of their own' in note]
    assert [int(note.split()[0]) for note in told] == [lost] * (lost > 0)
    assert all('1 object' in note for note in told)


@pytest.mark.parametrize(
    ('names', 'images', 'expected', 'told'),
    [
        ({'a/0001': 'IMG_5.png'}, ['images/b/0001.png'], {}, 'of their own (0001.xml'),
        ({'a/0001': '0001.png'}, ['images/b/0001.png'], {}, 'of their own (0001.xml'),
        (
            {'0001': '5.png'},
            ['images/0001.png'],
            {'0001.png': '0001'},
            'own path is ta',
        ),
        ({'1': '5.png'}, ['images/1.png', 'images/5.png'], {}, 'of their own (1.xml'),
        ({'1': '5.png'}, ['images/5.png'], {'5.png': '1'}, None),
        (
            {'1': '5.png', '5': '5.png'},
            ['images/5.png'],
            {'5.png': '5'},
            'of their own',
        ),
        (
            {'1': '5.png', '2': '5.png'},
            ['images/5.png'],
            {},
            '2 x label files left out',
        ),
        (
            {'a/3': '3.png', '3': '3.png'},
            ['images/b/3.png'],
            {},
            '2 x label files left',
        ),
        ({'1': '1'}, ['images/1.png'], {'1.png': '1'}, None),
        ({'1': '1.jpg'}, ['images/1.png'], {'1.png': '1'}, 'own path is taken (1.xml'),
        ({'1': '1.png'}, ['images/b/1.png'], {'1.png': '1'}, 'only one of its name is'),
        ({'1': '1.jpg'}, ['images/b/1.png'], {}, 'of their own (1.xml, 1 object)'),
        ({'a/1': '1.png'}, ['photos/1.png'], {'1.png': 'a/1'}, 'only one of its name'),
    ],
)
def test_images_of_another_name_or_place(tmp_path, names, images, expected, told):
    # An image apart, so that something can be read in any case.
    names = {**names, 'own/own': 'own.png'}
    for image in [*images, 'images/own/own.png']:
        photo(tmp_path / image)
    labelled(tmp_path, 'voc', names)
    (one,) = convert(tmp_path)
    found = {k.rpartition('/')[2]: v[0][0] for k, v in objects(one).items() if v}
    assert found == {**expected, 'own.png': 'own/own'}
    assert one.found_count == len(names)
    assert told is None or any(told in note for note in one.notes)


def test_labelme_takes_the_stated_path_and_no_image_twice(tmp_path):
    names = {'a': 'b.jpg', 'b': 'b.jpg', 'c': 'deep/c.jpg', 'd': '/home/me/d.jpg'}
    labelled(tmp_path, 'labelme', names)
    for name in ('b.jpg', 'deep/c.jpg', 'c.png', 'd.jpg', 'deep/d.jpg'):
        photo(tmp_path / name)
    (one,) = convert(tmp_path)
    assert {k: v[0][0] for k, v in objects(one).items()} == {'b.jpg': 'b', 'd.jpg': 'd'}
    assert (one.annotation_count, one.found_count) == (2, 4)


def test_cvat_names_what_is_there_and_what_is_not(tmp_path):
    photo(tmp_path / 'images' / 'Train' / '1.png')
    box = '<box label="{}" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    images = [
        f'<image name="1.png" subset="{subset}">{box.format(subset)}</image>'
        for subset in ('Validation', 'Train', 'Train')
    ]
    photo(tmp_path / 'images' / 'Validation' / '2.png')
    photo(tmp_path / 'images' / 'b' / '3.png')
    images.append(f'<image name="2.png" subset="Validation">{box.format("x")}</image>')
    images.append(f'<image name="a/3.png" subset="Train">{box.format("x")}</image>')
    write(tmp_path / 'annotations.xml', cvat_file(images))
    train, val = convert(tmp_path)
    assert objects(train) == {'1.png': [('Train', [1, 1, 8, 8], [])]}
    assert objects(val) == {'2.png': [('x', [1, 1, 8, 8], [])]}
    assert (train.found_count, val.found_count) == (3, 2)
    told = 'images left out that annotations.xml names twice or that are not there'
    assert train.notes == (
        '1 x images left out that annotations.xml does not name (3.png)',
        f'2 x {told} (1.png, 1 object, a/3.png, 1 object)',
    )
    assert val.notes == (f'1 x {told} (1.png, 1 object)',)


@pytest.mark.parametrize('kind', ['voc', 'labelme'])
@pytest.mark.parametrize(
    'place',
    [
        'images/{0}/{0}1',  # labels beside the images
        'images/{0}/{0}1 labels/{0}1',  # labels of all splits in one folder
        '{0}/images/{0}1 {0}/labels/{0}1',
        'set/{0}/{0}1',
        'JPEGImages/{0}2017/{0}1 Annotations/{0}2017/{0}1',
        '{0}_images/{0}1',
        'pets_{0}/{0}1',
        'a/{0}/{0}1',
        'a/{0}B/{0}1',
        '{0}2/{0}1',
        'all/{0}1 lists',
        'all/{0}1 Windows lists',
        'all/{0}1 ImageSets/Main',
        'VOC2007/all/{0}1 VOC2007/ImageSets',
    ],
)
def test_splits_wherever_they_are(tmp_path, kind, place):
    for split in ('train', 'test'):
        image, _, labels = place.format(split).partition(' ')
        photo(tmp_path / f'{image}.png')
        if 'ImageSets' in labels or 'lists' in labels:
            names = {
                'lists': f'{image}.png {image}.xml',
                'Windows lists': f'D:\\{image}',
            }
            text = names.get(labels, f'{split}1').replace(
                '/', '\\' if 'W' in labels else '/'
            )
            write(
                tmp_path
                / labels.rpartition('lists')[0].strip('Windows ')
                / f'{split}.txt',
                text,
            )
            labels = ''
        labelled(tmp_path, kind, {})
        path = tmp_path / (labels or image)
        if kind == 'voc':
            text = voc_file(f'{split}1.png', [voc_object(split, [2, 2, 9, 9])])
            write(path.with_name(f'{path.name}.xml'), text)
        else:
            box = shape(split, [[1, 1], [9, 9]], 'rectangle')
            write(
                path.with_name(f'{path.name}.json'),
                labelme_file(f'{split}1.png', [box]),
            )
    found = {one.split: objects(one) for one in convert(tmp_path)}
    assert {split: [*things.values()] for split, things in found.items()} == {
        split: [[(split, [1, 1, 8, 8], [])]] for split in ('train', 'test')
    }


def test_lists_of_other_names(tmp_path):
    for name in ('train_list', 'Val', 'test-images', 'cat_train', 'images', 'labels'):
        write(tmp_path / f'{name}.txt', 'a\n')
    found = {path.stem: split for split, path in find_lists(tmp_path)}
    assert found == {'train_list': 'train', 'Val': 'val', 'test-images': 'test'}


def test_labels_beside_a_split_without_train_are_kept(tmp_path):
    names = {'images/test/t': 't.png', 'images/a': 'a.png', 'images/lost': 'lost.png'}
    for name in ('images/test/t', 'images/a'):
        photo(tmp_path / f'{name}.png')
    for name, stated in names.items():
        box = shape(name, [[1, 1], [9, 9]], 'rectangle')
        write(tmp_path / f'{name}.json', labelme_file(stated, [box]))
    rest, test = convert(tmp_path)
    assert (rest.split, test.split) == ('', 'test')
    assert objects(rest) == {'a.png': [('images/a', [1, 1, 8, 8], [])]}
    assert objects(test) == {'t.png': [('images/test/t', [1, 1, 8, 8], [])]}
    assert rest.found_count + test.found_count == 3


@pytest.mark.parametrize('kind', ['voc', 'labelme'])
def test_labels_outside_the_splits_are_counted(tmp_path, kind):
    for name in ('train/t', 'val/v', 'extra/e', 'top'):
        photo(tmp_path / f'{name}.png')
        box = voc_object(name, [2, 2, 9, 9])
        rectangle = shape(name, [[1, 1], [9, 9]], 'rectangle')
        stated = f'{name.rpartition("/")[2]}.png'
        if kind == 'voc':
            write(tmp_path / f'{name}.xml', voc_file(stated, [box] * 3))
        else:
            write(tmp_path / f'{name}.json', labelme_file(stated, [rectangle] * 3))
    train, val = convert(tmp_path)
    assert (train.annotation_count, train.found_count) == (3, 9)
    assert (val.annotation_count, val.found_count) == (3, 3)
    assert train.classes == ('train/t', 'val/v')
    ending = {'voc': 'xml', 'labelme': 'json'}[kind]
    left = (
        '2 x label files left out, with their images, that are outside the split '
        f'folders (top.{ending}, 3 objects, e.{ending}, 3 objects)'
    )
    assert left in train.notes
    assert not any('no LabelMe file describes' in note for note in train.notes)
    assert val.notes == ()


def test_voc_lists_of_names_that_several_files_have(tmp_path):
    labelled(tmp_path, 'voc', {'day/1': '1.png', 'night/1': '1.png', 'x': 'x.png'})
    for name in ('day/1', 'night/1', 'x'):
        photo(tmp_path / 'JPEGImages' / f'{name}.png')
    write(tmp_path / 'ImageSets/Main/train.txt', 'x\nx\n1\n')
    write(tmp_path / 'ImageSets/Main/val.txt', 'night/1\n')
    train, val = convert(tmp_path)
    assert objects(train) == {'x.png': [('x', [1, 1, 8, 8], [])]}
    assert objects(val) == {'1.png': [('night/1', [1, 1, 8, 8], [])]}
    assert (train.annotation_count, train.found_count) == (1, 2)
    notes = ' | '.join(train.notes)
    assert '1 x images left out that train.txt names and several XML files' in notes
    assert 'in no split of ImageSets/Main (1.xml, 1 object)' in notes
    for name in ('train', 'val'):
        write(tmp_path / f'ImageSets/Main/{name}.txt', 'gone')
    with pytest.raises(UserError, match='name no XML file that is there'):
        convert(tmp_path)


# LabelMe


@pytest.mark.parametrize(('label', 'name'), [(7, '7'), (1.5, '1.5'), (' a  b', 'a b')])
def test_labelme_labels_may_be_numbers(tmp_path, label, name):
    shapes = [shape(label, [[1, 1], [9, 9]], 'rectangle')]
    (one,) = convert(labelme(tmp_path / 'l', shapes))
    assert objects(one) == {'a.jpg': [(name, [1, 1, 8, 8], [])]}


@pytest.mark.parametrize(
    ('kind', 'name', 'encoding', 'declared', 'guess'),
    [
        ('voc', '杯子', 'gbk', 'GBK', None),
        ('voc', '杯子', 'gbk', None, 'GBK'),
        ('voc', 'コップ', 'shift-jis', 'Shift_JIS', None),
        ('voc', 'Tür', 'latin-1', None, 'Latin-1'),
        ('voc', '杯', 'utf-16', 'utf-16', None),
        ('voc', 'cup', 'utf-8', 'utf-16', None),
        ('labelme', '杯子', 'gbk', None, 'GBK'),
        ('labelme', 'Öl', 'latin-1', None, 'Latin-1'),
        ('cvat', '杯子', 'gb18030', 'GB18030', None),
    ],
)
def test_label_files_in_other_encodings(
    tmp_path, kind, name, encoding, declared, guess
):
    photo(tmp_path / 's' / FOLDERS[kind] / 'a.png')
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ''
    if kind == 'voc':
        text = head + voc_file('a.png', [voc_object(name, [2, 2, 9, 9])])
    elif kind == 'cvat':
        box = f'<box label="{name}" xtl="1" ytl="1" xbr="9" ybr="9"/>'
        text = head + cvat_file([f'<image name="a.png">{box}</image>']).split('\n')[1]
    else:
        box = shape(name, [[1, 1], [9, 9]], 'rectangle')
        text = json.dumps(labelme_file('a.png', [box]), ensure_ascii=False)
    folder = tmp_path / 's' / {'voc': 'Annotations'}.get(kind, '')
    file = write(folder / ('a.json' if kind == 'labelme' else 'annotations.xml'), '')
    file = file.rename(file.with_name('a.xml')) if kind == 'voc' else file
    file.write_bytes(text.encode(encoding))
    (one,) = convert(tmp_path / 's')
    assert objects(one) == {'a.png': [(name, [1, 1, 8, 8], [])]}
    told = [note for note in one.notes if 'not UTF-8' in note]
    assert told == [
        f'1 x files that are not UTF-8: read as {guess} ({file.name})'
    ] * bool(guess)


def test_files_of_unknown_encodings_are_not_guessed(tmp_path):
    v = voc(tmp_path / 'v', {'a': [voc_object('cup', [2, 2, 9, 9])], 'b': []})
    text = voc_file('b.jpg', [voc_object('コップ', [2, 2, 9, 9])])
    (v / 'Annotations/b.xml').write_bytes(text.encode('shift-jis'))
    (one,) = convert(v)
    assert one.classes == ('cup',)
    assert any('left out that cannot be read' in note for note in one.notes)


def test_labelme_shapes(tmp_path):
    shapes = [
        shape('cat', [[10.25, 5], [30, 5], [20, 25.5]]),
        shape('cat', [[30, 20], [10, 5]], 'rectangle'),
        shape('Ünï code', [[50, 25], [53, 29]], 'circle'),
    ]
    (one,) = convert(labelme(tmp_path / 'l', shapes))
    polygon, box, circle = objects(one)['a.jpg']
    assert polygon == (
        'cat',
        [10.25, 5, 19.75, 20.5],
        [[10.25, 5, 30, 5, 20, 25.5]],
    )
    assert box == ('cat', [10, 5, 20, 15], [])
    assert circle[:2] == ('Ünï code', [45, 20, 10, 10])
    points = np.reshape(circle[2], (-1, 2))
    np.testing.assert_allclose(np.hypot(*(points - [50, 25]).T), 5, atol=1e-4)
    area = content(one)['annotations'][2]['area']
    assert area == pytest.approx(np.pi * 25, rel=0.05)


def test_labelme_groups_are_one_object(tmp_path):
    left, right = [[1, 1], [9, 1], [9, 9]], [[20, 20], [29, 20], [29, 29]]
    shapes = [
        shape('cat', left, group=3),
        shape('cat', right, group=3),
        shape('dog', right, group=3),
        shape('cat', right),
    ]
    (one,) = convert(labelme(tmp_path / 'l', shapes))
    first, dog, single = objects(one)['a.jpg']
    both = [[1, 1, 9, 1, 9, 9], [20, 20, 29, 20, 29, 29]]
    assert first == ('cat', [1, 1, 28, 28], both)
    assert dog == ('dog', [20, 20, 9, 9], both[1:])
    assert single == ('cat', [20, 20, 9, 9], both[1:])
    assert (one.annotation_count, one.found_count, one.joined_count) == (3, 4, 1)
    assert one.notes == ('1 x shapes joined with another of their group_id (a.jpg)',)


@pytest.mark.parametrize(
    'bad',
    [
        shape('cat', [[1, 1], [9, 9]], 'line'),
        shape('cat', [[1, 1]], 'point'),
        shape('cat', [[1, 1], [9, 9]]),
        shape('cat', [[1, 1], [9, 9], [3]]),
        shape('cat', [[1, 1], [9, 9], [3, float('nan')]]),
        shape('cat', [[1, 1]], 'circle'),
        shape('cat', None),
        shape(None, [[1, 1], [9, 9], [3, 4]]),
        shape(['x'], [[1, 1], [9, 9], [3, 4]]),
        shape('cat', 'abc'),
        shape('cat', [[1, 1], [9, 9], [3, 1e39]]),
        shape('cat', [['a', 'b']] * 3),
        'no shape',
        None,
    ],
)
def test_labelme_shapes_left_out_are_counted(tmp_path, bad):
    good = shape('cat', [[1, 1], [9, 1], [9, 9]])
    (one,) = convert(labelme(tmp_path / 'l', [bad, good]))
    assert (one.annotation_count, one.found_count) == (1, 2)
    (note,) = one.notes
    assert note.startswith('1 x ')
    assert 'left out' in note


@pytest.mark.parametrize(
    'name',
    ['a.jpg', '..\\photos\\a.jpg', 'C:\\data\\a.jpg', '/home/you/a.jpg', '', None],
)
def test_labelme_finds_the_image_by_its_name(tmp_path, name):
    good = shape('cat', [[1, 1], [9, 1], [9, 9]])
    (one,) = convert(labelme(tmp_path / 'l', [good], name))
    assert one.images == tmp_path / 'l'
    assert list(objects(one)) == ['a.jpg']


def test_labelme_images_in_a_folder_beside_and_not_further(tmp_path):
    good = shape('cat', [[1, 1], [9, 1], [9, 9]])
    base = tmp_path / 'base'
    photo(base / 'photos' / 'a.jpg')
    photo(tmp_path / 'secret.jpg')
    write(base / 'labels' / 'a.json', labelme_file('../photos/a.jpg', [good]))
    write(base / 'labels' / 'b.json', labelme_file('../../secret.jpg', [good, good]))
    secret = {'imageData': base64.b64encode(b'x').decode()}
    write(base / 'labels' / 'c.json', labelme_file('c.jpg', [good]) | secret)
    (one,) = convert(base / 'labels')
    assert (one.images, list(objects(one))) == (base / 'photos', ['a.jpg'])
    assert one.found_count == 4
    assert one.notes == (
        '2 x label files left out without an image of their own (b.json, 2 objects, '
        'c.json, 1 object: it is inside the JSON alone)',
    )


# CVAT


def test_cvat_shapes(tmp_path):
    shapes = (
        '<tag label="ant"/>'
        '<box label="ant" xtl="1.25" ytl="2" xbr="11.25" ybr="12" occluded="1"/>'
        '<polygon label="zebra" points="1,1;9,1;9,9"/>'
        '<ellipse label="ant" cx="50" cy="25" rx="20" ry="10"/>'
        '<mask label="ant" rle="2,2,1,1" left="10" top="20" width="3" height="2"/>'
        '<box label="ant" xtl="40" ytl="20" xbr="60" ybr="30" rotation="90"/>'
    )
    (one,) = convert(cvat(tmp_path / 'c', shapes))
    assert one.classes == ('zebra', 'ant')
    box, polygon, ellipse, mask, turned = objects(one)['a.png']
    assert box == ('ant', [1.25, 2, 10, 10], [])
    assert polygon == ('zebra', [1, 1, 8, 8], [[1, 1, 9, 1, 9, 9]])
    assert ellipse[1] == [30, 15, 40, 20]
    # Rows 001 and 101 of a box of 3 x 2 at (10, 20).
    assert mask[1] == [10, 20, 3, 2]
    assert content(one)['annotations'][3]['area'] == 3
    assert content(one)['annotations'][0]['occluded'] == 1
    assert turned[1] == pytest.approx([45, 15, 10, 20])
    assert one.found_count == 5
    written = read_annotations(one.file).content
    assert {f.severity for f in check_annotations(written)} <= {'warning', 'note'}
    from pycocotools import mask as api

    drawn = api.decode(content(one)['annotations'][3]['segmentation'])
    assert sorted(zip(*np.nonzero(drawn), strict=True)) == [
        (20, 12),
        (21, 10),
        (21, 12),
    ]


@pytest.mark.parametrize(
    'bad',
    [
        '<polyline label="ant" points="1,1;2,2"/>',
        '<box label="ant" xtl="1" ytl="2" xbr="3"/>',
        '<box xtl="1" ytl="2" xbr="3" ybr="4"/>',
        '<polygon label="ant" points="1,1;2,2"/>',
        '<polygon label="ant" points="1,1,1;2,2;3,3"/>',
        '<mask label="ant" rle="1,2" left="1" top="1" width="2" height="2"/>',
        '<mask label="ant" rle="4" left="99" top="1" width="2" height="2"/>',
        '<mask label="ant" rle="-1,5" left="1" top="1" width="2" height="2"/>',
        '<box label="ant" xtl="1" ytl="2" xbr="3" ybr="4" rotation="x"/>',
    ],
)
def test_cvat_shapes_left_out_are_counted(tmp_path, bad):
    good = '<polygon label="zebra" points="1,1;9,1;9,9"/>'
    (one,) = convert(cvat(tmp_path / 'c', good + bad))
    assert (one.annotation_count, one.found_count) == (1, 2)
    assert 'left out' in one.notes[0]


def test_cvat_splits_are_folders_of_names_written_on_windows(tmp_path):
    box = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    names = ('train\\a.png', 'Test\\b.png')
    for name in names:
        photo(tmp_path / 'images' / name.replace('\\', '/'))
    images = [f'<image name="{name}" subset="default">{box}</image>' for name in names]
    write(tmp_path / 'annotations.xml', cvat_file(images))
    train, test = convert(tmp_path)
    assert (train.split, test.split) == ('train', 'test')
    assert objects(train) == {'a.png': [('cat', [1, 1, 8, 8], [])]}
    assert objects(test) == {'b.png': [('cat', [1, 1, 8, 8], [])]}


@pytest.mark.parametrize('place', ['', 'train/', 'eval/'])
def test_cvat_names_with_folders_of_splits_need_no_subset(tmp_path, place):
    box = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    photo(tmp_path / 'images/test/b.png')
    photo(tmp_path / f'images/{place}a.png')
    images = [
        f'<image name="{n}">{box}</image>' for n in ('test/b.png', f'{place}a.png')
    ]
    write(tmp_path / 'annotations.xml', cvat_file(images))
    found = {one.split: objects(one) for one in convert(tmp_path)}
    first = {'': '', 'train/': 'train', 'eval/': 'val'}[place]
    assert found == {
        first: {'a.png': [('cat', [1, 1, 8, 8], [])]},
        'test': {'b.png': [('cat', [1, 1, 8, 8], [])]},
    }


def test_cvat_without_images_is_refused(tmp_path):
    write(tmp_path / 'annotations.xml', cvat_file([]))
    with pytest.raises(UserError, match='names no image') as caught:
        convert(tmp_path)
    assert caught.value.code == 'no-images'


def test_xml_with_a_namespace_is_read_as_without(tmp_path):
    v = voc(tmp_path / 'v', {'a': [voc_object('cat', [1, 1, 9, 9])]})
    c = cvat(tmp_path / 'c', '<box label="ant" xtl="1" ytl="2" xbr="3" ybr="4"/>')
    expected = [objects(one) for folder in (v, c) for one in convert(folder)]
    assert [len(found) for found in expected] == [1, 1]
    for file in (v / 'Annotations/a.xml', c / 'annotations.xml'):
        text = re.sub('<(annotations?)>', r'<\1 xmlns="urn:x">', file.read_text())
        assert 'xmlns' in text
        write(file, text)
    outs = (tmp_path / 'v2', tmp_path / 'c2')
    pairs = zip((v, c), outs, strict=True)
    assert [objects(one) for pair in pairs for one in convert(*pair)] == expected


def test_images_of_two_splits_are_named(tmp_path):
    v = voc(tmp_path / 'v', {name: [] for name in 'abc'})
    write(v / 'ImageSets/Main/train.txt', 'a\nb\n')
    write(v / 'ImageSets/Main/val.txt', 'b\nc\n')
    train, val = convert(v)
    assert not any('too' in note for note in train.notes)
    assert '1 x images of val that are in train too (b.jpg)' in val.notes


def test_two_files_of_cvat_are_not_one(tmp_path):
    c = cvat(tmp_path / 'c', '<box label="ant" xtl="1" ytl="2" xbr="3" ybr="4"/>')
    (c / 'other.xml').write_bytes((c / 'annotations.xml').read_bytes())
    with pytest.raises(UserError, match=r'found annotations.xml, other.xml'):
        convert(c)
    (one,) = convert(c / 'other.xml')
    assert objects(one) == {'a.png': [('ant', [1, 2, 2, 2], [])]}


def test_cvat_groups_subsets_and_videos(tmp_path):
    c = tmp_path / 'c'
    polygon = '<polygon label="cat" points="{}" group_id="1"/>'
    pair = polygon.format('1,1;9,1;9,9') + polygon.format('20,20;29,20;29,29')
    photo(c / 'images' / 'a.png')
    photo(c / 'images' / 'sub' / 'b.png')
    images = [
        f'<image name="a.png" subset="Train" width="inf">{pair}</image>',
        f'<image name="sub/b.png" subset="Validation">{pair}</image>',
        f'<image name="gone.png" subset="Train">{pair}</image>',
        '<image name="" subset="Train"></image>',
        '<image name="/etc/b.jpg" subset="Train"></image>',
    ]
    file = write(c / 'annotations.xml', cvat_file(images))
    train, val = convert(file)
    assert (train.joined_count, train.found_count, train.annotation_count) == (1, 4, 1)
    assert objects(val)['b.png'][0][1] == [1, 1, 28, 28]
    write(file, cvat_file(['<track id="0" label="cat"/>']))
    with pytest.raises(UserError, match='of a video'):
        convert(file)
