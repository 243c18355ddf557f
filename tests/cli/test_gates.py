"""``eca-mmdet gates``: which images, what is printed, written and drawn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eca_mmdet.analysis.gate_images import choose_images
from eca_mmdet.utils.errors import UserError
from tests.support.gate_detectors import build


@pytest.fixture(scope='module')
def checkpoints(mmdet_ready, tmp_path_factory):
    """Two narrow detectors as mmengine saves them: ECA, SE."""
    folder = tmp_path_factory.mktemp('train')
    paths = []
    for key in ('eca', 'se'):
        detector = build(key)
        meta = {
            'cfg': detector.cfg.pretty_text,
            'dataset_meta': {'classes': ('circle', 'square', 'triangle')},
        }
        paths.append(folder / f'{key}.pth')
        torch.save({'meta': meta, 'state_dict': detector.model.state_dict()}, paths[-1])
    return paths


@pytest.fixture
def data(tmp_path, write):
    """Six images of 64 pixels in a folder beside the file, and three classes."""
    random = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for index in range(6):
        image = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'images' / f'{index}.png'), image)
    objects = [  # image, category, crowd
        *((0, 7, 0), (0, 7, 0), (1, 7, 0), (2, 7, 1), (3, 7, 0)),
        *(('3', 9, 0), (4, '9', 0), (1, 4, 1), (8, 9, 0), (0, 5, 0)),
    ]
    content = {
        'images': [{'id': i, 'file_name': f'{i}.png'} for i in range(6)],
        'categories': [
            {'id': 7, 'name': '$x_1$ ' + 30 * 'long '},
            {'id': 4, 'name': 'crowds'},
            {'id': 9, 'name': '_猫'},
        ],
        'annotations': [
            {'id': i, 'image_id': a, 'category_id': b, 'iscrowd': c}
            for i, (a, b, c) in enumerate(objects)
        ],
    }
    return write(content)


def names(found):
    return sorted(int(one.stem) for one in found.images)


def test_images_of_classes(data):
    """Objects of unknown images or categories, and crowds, make no class."""
    found = choose_images(str(data))
    first = found.classes_of[0][0]
    assert first.startswith('$x_1$')
    assert names(found) == [0, 1, 3, 4]
    pairs = zip(found.images, found.classes_of, strict=True)
    assert {path.stem: one for path, one in pairs} == {
        '0': (first,),
        '1': (first,),
        '3': (first, '_猫'),
        '4': ('_猫',),
    }
    assert names(choose_images(str(data), classes=['_猫'])) == [3, 4]


def test_four_most_frequent_classes(write, tmp_path):
    (tmp_path / '0.png').touch()
    counts = {'a': 1, 'b': 4, 'c': 2, 'd': 2, 'e': 3}
    content = {
        'images': [{'id': i, 'file_name': f'{i}.png'} for i in range(5)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(counts)],
        'annotations': [
            {'image_id': image, 'category_id': i}
            for i, count in enumerate(counts.values())
            for image in range(count)
        ],
    }
    found = choose_images(str(write(content)))
    assert found.classes_of[found.images.index(tmp_path / '0.png')] == (*'becd',)


def test_a_rare_class_gets_its_turn(write, tmp_path):
    (tmp_path / '0.png').touch()
    content = {
        'images': [{'id': i, 'file_name': f'{i}.png'} for i in range(100)],
        'categories': [{'id': 1, 'name': 'often'}, {'id': 2, 'name': 'rare'}],
        'annotations': [
            {'image_id': i, 'category_id': 1 if i < 95 else 2} for i in range(100)
        ],
    }
    path = str(write(content))
    for limit, rare in ((1, 0), (4, 2), (10, 5), (20, 5), (1000, 5)):
        found = choose_images(path, limit=limit)
        assert len(set(found.images)) == min(limit, 100)
        assert sum(one == ('rare',) for one in found.classes_of) == rare
    assert found == choose_images(path, limit=1000)  # not by chance


def test_an_image_taken_before_is_no_turn(write, tmp_path):
    (tmp_path / '0.png').touch()
    both, alone = range(10), range(10, 20)
    content = {
        'images': [{'id': i, 'file_name': f'{i}.png'} for i in range(20)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate('abc')],
        'annotations': [
            *({'image_id': i, 'category_id': c} for i in both for c in (0, 1)),
            *({'image_id': i, 'category_id': 2} for i in alone),
        ],
    }
    found = choose_images(str(write(content)), limit=6)
    assert sum(one == ('c',) for one in found.classes_of) == 2


def test_images_of_a_folder(data):
    folder = str(data.parent / 'images')
    (data.parent / 'images' / '3.jpg').mkdir()
    (data.parent / 'images' / 'notes.txt').touch()
    found = choose_images(folder, limit=3)
    assert (names(found), found.classes_of) == ([0, 2, 4], None)
    assert names(choose_images(folder, limit=7)) == list(range(6))
    assert names(choose_images(f'{folder}/5.png')) == [5]


def test_annotations_without_objects(data):
    content = json.loads(data.read_text())
    content['annotations'] = []
    data.write_text(json.dumps(content))
    found = choose_images(str(data))
    assert (names(found), found.classes_of) == ([0, 1, 2, 3, 4, 5], None)


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        (dict(source='{}/nowhere'), "nowhere' does not exist"),
        (dict(source='{}'), 'has no images .* those of its folders do not count'),
        (dict(source='{}/images', classes=['a']), '--classes belongs to an annotation'),
        (dict(source='{}/images/1.png', folder='{}'), 'is an image, which names no'),
        (dict(source='{}/ann.json', folder='{}/no'), "no' is no folder"),
        (dict(source='{}/ann.json', classes=['dog']), "no class 'dog' in .*ann.json"),
        (dict(source='{}/ann.json', classes=['crowds']), "object of 'crowds', crowds"),
    ],
)
def test_what_is_no_set_of_images(data, words, part):
    def fill(value):
        return value.format(data.parent) if isinstance(value, str) else value

    with pytest.raises(UserError, match=part):
        choose_images(**{key: fill(value) for key, value in words.items()})


def test_images_elsewhere(data):
    (data.parent / 'images').rename(data.parent / 'photos')
    with pytest.raises(UserError, match="'0.png' is not in .*--images-dir DIR"):
        choose_images(str(data))
    found = choose_images(str(data), folder=str(data.parent / 'photos'))
    assert names(found) == [0, 1, 3, 4]


def test_side_by_side(command, checkpoints, data, tmp_path):
    out = tmp_path / 'out'
    code, text, err = command('gates', *checkpoints, '--images', data, '--out', out)
    assert code == 0, err
    rows = [line.split() for line in text.splitlines() if line.startswith('backbone')]
    assert [(row[0], row[3], row[5]) for row in rows[::8]] == [
        ('backbone.layer1.0.eca', 'ECALayer', '3'),
        ('backbone.layer1.0.se', 'SqueezeExcite', '-'),
    ]
    record = json.loads((out / 'gates.json').read_text())
    assert record['images'] == 4
    assert [one['images'] for one in record['classes']] == [3, 2]
    assert [Path(one['file']).stem for one in record['checkpoints']] == ['eca', 'se']
    gate = record['checkpoints'][1]['gates'][7]
    assert float(rows[15][6]) == pytest.approx(np.mean(gate['mean']), abs=6e-4)
    assert (gate['stage'], gate['block'], gate['channels']) == (4, 1, 128)
    assert cv2.imread(str(out / 'gates.png')).std() > 5 and 'gates.png' in err
    code, _, err = command('gates', *checkpoints, '--images', data, '--out', out)
    assert code == 2 and 'overwrites nothing' in err


def test_json_alone_is_printed(command, checkpoints, data, tmp_path):
    out = tmp_path / 'out'
    images = data.parent / 'images' / '0.png'
    code, text, _ = command(
        *('gates', checkpoints[0], '--images', images, '--json', '--out', out),
        *('--dead', 0.6, '--saturated', 0.7),
    )
    record = json.loads(text)
    assert code == 0 and record == json.loads((out / 'gates.json').read_text())
    assert (record['images'], record['classes']) == (1, [])
    assert record['thresholds']['dead'] == 0.6
    for gate in record['checkpoints'][0]['gates']:
        assert gate['dead'] == sum(value < 0.6 for value in gate['mean'])
        assert gate['constant'] is None


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        (['--dead', '0.9', '--saturated', '0.2'], '--dead must be less'),
        (['--config', 'a', 'b'], 'one for each of the 1 checkpoints; got 2'),
    ],
)
def test_refused_before_anything_is_loaded(command, data, words, part):
    code, _, err = command('gates', 'no.pth', '--images', data, *words)
    assert code == 2 and part in err


def test_nothing_is_left_of_a_failure(command, checkpoints, data, tmp_path):
    (data.parent / 'images' / '4.png').write_bytes(b'\x89PNG')
    out = tmp_path / 'out'
    code, _, err = command('gates', checkpoints[0], '--images', data, '--out', out)
    assert code == 2 and "4.png': OpenCV reads no image" in err
    assert not out.exists()
    (tmp_path / 'cut.pth').write_bytes(checkpoints[0].read_bytes()[:5000])
    code, _, err = command(
        'gates', tmp_path / 'cut.pth', '--images', data, '--out', out
    )
    assert code == 2 and 'cut.pth cannot be read' in err and not out.exists()
