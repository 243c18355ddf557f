"""Each fault of a data set is found, counted and named; a sound one has none."""

import copy
import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from eca_mmdet.datasets.coco import BYTE_ORDER_MARK, read_annotations
from eca_mmdet.datasets.entries import left_out
from eca_mmdet.datasets.images import (
    check_size,
    find_missing,
    open_images,
    read_size,
)
from eca_mmdet.datasets.masks import mask_boxes
from eca_mmdet.datasets.rules import check
from eca_mmdet.datasets.rules.check import (
    check_classes,
    check_images,
    compare_splits,
)
from eca_mmdet.datasets.rules.rule import Content
from tests.conftest import REPOSITORY
from tests.support.broken_data import (
    CASES,
    DELETE,
    IMAGES,
    case_id,
    check_annotations,
    sound,
    write_images,
)


def by_code(found):
    return {fault.code: fault for fault in found}


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / 'images')


@pytest.mark.parametrize('case', CASES, ids=case_id)
def test_each_fault_alone(case):
    found = by_code(check_annotations(case.content()))
    notes = {'class-without-objects', 'crowd-region'}
    assert set(found) - notes == {case.code}
    fault = found[case.code]
    assert fault.count == case.count
    assert case.example in ', '.join(fault.examples)
    assert fault.severity in ('error', 'warning')


def test_a_normalised_box_of_no_image():
    content = sound()
    one = content['annotations'][0]
    one |= {'image_id': 99, 'bbox': [0.1, 0.1, 0.5, 0.5]}
    assert 'orphan-annotation' in by_code(check_annotations(content))


def test_a_sound_file_has_none(write, folder, command):
    assert check_annotations(sound(), ['cat', 'dog']) == []
    code, out, err = command('data', 'check', write(sound()), '--images', folder)
    assert code == 0 and err.startswith('Next:\n  eca-mmdet data split ')
    assert out.endswith('3 images, 4 annotations, 2 categories\nno fault\n')


@pytest.mark.parametrize('mask', [[], None, {}, '', DELETE, 'one other', 'one bad'])
def test_a_file_of_boxes_and_true_for_one_are_good(mask):
    content = sound()
    first = content['annotations'][0]
    masked = str(mask).startswith('one ')
    polygon, empty = first['segmentation'], [] if masked else mask
    for at, one in enumerate(content['annotations']):
        one['segmentation'], one['iscrowd'] = empty, at == 3
        if empty is DELETE:
            del one['segmentation']
    if masked:
        first['segmentation'] = [polygon[0][:4]] if mask == 'one bad' else polygon
    found = {fault.code: fault for fault in check_annotations(content)}
    fault = found.pop('missing-segmentation')
    assert found.pop('crowd-region').count == 1
    assert set(found) == ({'short-polygon'} if mask == 'one bad' else set())
    assert fault.count == (3 if masked else 4)
    assert fault.severity == ('warning' if mask == 'one other' else 'note')
    assert ('beside others' in fault.message) == (mask == 'one other')


def test_boxes_may_be_a_pixel_over_the_edge():
    content = sound()
    box = {'bbox': [-1, -1, 66, 50], 'segmentation': [[0, 0, 64, 0, 64, 48, 0, 48]]}
    content['annotations'][0] |= box  # image of 64 x 48
    assert check_annotations(content) == []


def test_text_ids_of_images_are_good():
    content = sound()
    for one in content['images']:
        one['id'] = f'img{one["id"]}'
    for one in content['annotations']:
        one['image_id'] = f'img{one["image_id"]}'
    assert check_annotations(content) == []


def test_whole_floats_are_the_same_ids():
    content = sound()
    content['images'][0]['id'] = 10.0
    content['annotations'][1]['id'] = 2.0
    content['images'][0]['width'] = 64.0
    assert check_annotations(content) == []


def test_many_faults_are_counted_and_three_named():
    content = sound()
    for one in content['annotations']:
        one['area'] = None
    fault = by_code(check_annotations(content))['missing-area']
    assert (fault.count, len(fault.examples)) == (4, 3)
    assert '4 x missing-area' in fault.line() and ', ...)' in fault.line()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_the_demo_set_has_none(shapes, command, split):
    file = shapes / 'annotations' / f'{split}.json'
    words = ('--images', shapes / split, '--classes', 'circle', 'square', 'triangle')
    code, out, _ = command('data', 'check', file, *words)
    assert (code, out.splitlines()[-1]) == (0, 'no fault')


def test_the_two_halves_of_the_demo_set_share_names_but_no_image(shapes, command):
    files = [shapes / 'annotations' / f'{split}.json' for split in ('train', 'val')]
    code, out, _ = command('data', 'check', files[0], '--val', files[1])
    assert code == 1 and '4 x split-same-file-name' in out
    folders = ('--images', shapes / 'train', '--val-images', shapes / 'val')
    code, out, _ = command('data', 'check', files[0], '--val', files[1], *folders)
    assert (code, out.splitlines()[-1]) == (0, 'no fault')


def test_real_coco_has_none(coco_tiny, command):
    file = coco_tiny / 'annotations' / 'instances_val2017.json'
    code, out, _ = command('data', 'check', file, '--images', coco_tiny / 'val2017')
    assert (code, out.splitlines()[-1]) == (0, 'no fault')


# --- what mmdet leaves out of training


@pytest.mark.openmmlab
def test_what_mmdet_trains_on(mmdet_ready, write, folder):
    """Each condition of ``CocoDataset.parse_data_info``, against that method."""
    from mmdet.datasets import CocoDataset

    content, first = sound(), sound()['annotations'][0]
    boxes = [[x, 3, w, 6] for x in (-8, -7.5, 0, 2, 63.5, 64) for w in (0, 0.5, 1, 8)]
    boxes += [[2, y, 8, h] for y in (-6, 0, 47, 48) for h in (-1, 0.99, 1, 6)]
    more = [{'bbox': box} for box in boxes]
    more += [{'area': area} for area in (-1, 0, 0.01)]
    flags = (0, 1, True, False, 1.0, None, '', '0', 'false')
    more += [{key: flag} for key in ('iscrowd', 'ignore') for flag in flags]
    content['annotations'] = [
        first | {'id': at} | one for at, one in enumerate(more, 1)
    ]
    for one in content['annotations']:
        one['image_id'] = 10  # 64 x 48 px
    dataset = CocoDataset(
        ann_file=str(write(content)),
        metainfo={'classes': ('cat', 'dog')},
        data_prefix={'img': str(folder)},
        pipeline=[],
    )
    kept = [
        one for one in dataset.get_data_info(0)['instances'] if not one['ignore_flag']
    ]
    trained = [one for one in content['annotations'] if not left_out(one, (64, 48))]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (o['bbox'] for o in trained)]
    assert [one['bbox'] for one in kept] == corners
    assert len(trained) == 20 and len(more) == 61


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'iscrowd': True}, 'crowd-region'),
        ({'iscrowd': '0'}, 'crowd-region'),
        ({'ignore': 1.0}, 'ignored-object'),
        ({'ignore': 'false'}, 'ignored-object'),
        ({'bbox': [2, 3, 0.9, 6]}, 'thin-bbox'),
        ({'bbox': [99, 3, 8, 6]}, 'bbox-outside'),
        ({'bbox': [2, 3, 8, 0]}, 'empty-bbox'),
        ({'area': 0}, 'zero-area'),
        ({'image_id': 5}, 'orphan-annotation'),
        ({'category_id': 5}, 'unknown-category'),
    ],
)
def test_a_file_without_an_object_to_train_on(change, reason):
    content = sound()
    for one in content['annotations']:
        one.update(change)
    fault = by_code(check_annotations(content))['nothing-to-train-on']
    assert (fault.severity, fault.examples) == ('error', (f'4 x {reason}',))
    content['annotations'].append(sound()['annotations'][0])
    assert 'nothing-to-train-on' not in by_code(check_annotations(content))


def test_classes_without_an_object_to_train_on():
    content = sound()
    for one in content['annotations']:
        if one['category_id'] == 1:
            one['iscrowd'] = 1
    found = by_code(check_annotations(content, ['cat', 'dog']))
    assert found['class-not-trained'].examples == ("'cat'",)
    assert found['crowd-region'].count == 2
    found = by_code(check_annotations(content, ['cat']))
    assert found['nothing-to-train-on'].examples == (
        '2 x other-class, 2 x crowd-region',
    )


def test_outlines_are_compared_as_pycocotools_draws_them():
    """With and without drawing, the same: a pixel, or none."""
    from pycocotools import mask as api

    rng = np.random.default_rng(0)
    for _ in range(300):
        points = rng.uniform(-4, 24, (rng.integers(3, 6), 2)) * rng.choice([0.1, 1], 2)
        mask = [(points + rng.integers(0, 9, 2)).ravel().tolist()]
        drawn = api.merge(api.frPyObjects(mask, 20, 20))
        (box,) = mask_boxes([mask], [(20, 20)])
        assert np.isnan(box).all() == (api.area(drawn) == 0)
        if not np.isnan(box).any():
            x, y, w, h = api.toBbox(drawn)
            assert np.allclose(box, [x, y, w, h], atol=2)


# --- classes and splits


@pytest.mark.parametrize(
    ('classes', 'codes', 'example'),
    [
        (('cat', 'dog'), [], ''),
        (('dog',), [], ''),
        (('dog', 'cat'), ['class-order'], 'cat, dog'),
        (('cat', 'cat'), ['class-order'], 'cat'),
        (('cat', 'Dog'), ['unknown-class'], "'Dog', the file has 'dog'"),
        (('cat', 'zebra'), ['unknown-class'], "'zebra'"),
        ('cat,dog', ['classes-string'], "'cat,dog'"),
    ],
)
def test_classes(classes, codes, example):
    found = check_classes(Content.of(sound(), classes))
    assert [fault.code for fault in found] == codes
    assert not codes or example in found[0].examples[0]


@pytest.mark.openmmlab
def test_labels_do_follow_the_order_of_the_file(mmdet_ready, write, folder):
    """The reason for 'class-order', in mmdet itself."""
    from mmdet.datasets import CocoDataset

    dataset = CocoDataset(
        ann_file=str(write(sound())),
        metainfo={'classes': ('dog', 'cat')},
        data_prefix={'img': str(folder)},
        pipeline=[],
    )
    labels = [one['bbox_label'] for one in dataset.get_data_info(0)['instances']]
    assert labels == [1] and sound()['annotations'][0]['category_id'] == 2
    assert dataset.metainfo['classes'][1] == 'cat'  # but the object is a dog


@pytest.mark.parametrize(
    ('names', 'code', 'example'),
    [
        (['cat', 'dog'], None, ''),
        (['dog', 'cat'], 'split-category-order', "'cat'"),
        (['cat'], 'split-missing-category', "'dog'"),
        (['cat', 'dog', 'cow'], 'split-extra-category', "'cow'"),
        (['cat', 'Dog '], 'split-category-spelling', "'dog' and 'Dog '"),
    ],
)
def test_categories_of_two_files(names, code, example):
    val = copy.deepcopy(sound())
    val['images'] = [dict(one, file_name=f'v{one["id"]}') for one in val['images']]
    val['categories'] = [{'id': i, 'name': name} for i, name in enumerate(names)]
    found = compare_splits(sound(), val)
    assert [fault.code for fault in found] == [code] * bool(code)
    assert not code or example in found[0].examples


def test_only_the_classes_in_use_are_compared():
    val = copy.deepcopy(sound())
    val['images'], val['categories'] = [], val['categories'][:1]
    assert compare_splits(sound(), val, ['cat']) == []


def test_images_in_both_files(tmp_path, folder):
    other = write_images(tmp_path / 'val')
    fault = by_code(compare_splits(sound(), sound(), None, (folder, folder)))
    assert fault['split-leak'].count == 3
    fault = by_code(compare_splits(sound(), sound(), None, (folder, other)))
    assert fault['split-leak'].count == 3  # copies, byte for byte
    (other / 'b.jpg').write_bytes(b'another image')
    (fault,) = compare_splits(sound(), sound(), None, (folder, other))
    assert (fault.count, fault.examples) == (2, ("'é.png'", "'sub/c.png'"))


# --- images


def test_missing_files_and_their_near_names(folder):
    (folder / 'b.jpg').rename(folder / 'B.JPG')
    (folder / 'sub' / 'c.png').unlink()
    files = find_missing(folder, IMAGES)
    assert files.missing == {'b.jpg': 'B.JPG', 'sub/c.png': ''}
    (fault,) = check_images(sound()['images'], files)
    assert (fault.code, fault.count) == ('missing-image', 2)
    assert fault.examples == ("'b.jpg', there is 'B.JPG'", "'sub/c.png'")


def test_a_name_written_with_a_combining_accent(folder):
    (folder / 'é.png').rename(folder / 'e\u0301.png')
    assert find_missing(folder, ['é.png']).missing == {'é.png': 'e\u0301.png'}


def test_folders_and_odd_names_are_no_files(folder):
    (folder / 'd.png').mkdir()
    (folder / 'e.png').symlink_to(folder / 'nothing.png')
    names = ['d.png', 'e.png', 'no/f.png', 'zero\0/g.png', '../images/b.jpg']
    assert list(find_missing(folder, names).missing) == names[:4]


def test_each_folder_is_read_once(folder, monkeypatch):
    from eca_mmdet.datasets import images as image_files

    scanned = []
    real = image_files.os.scandir
    monkeypatch.setattr(
        image_files.os, 'scandir', lambda path: (scanned.append(path), real(path))[1]
    )
    find_missing(folder, [*IMAGES, 'x.png', 'sub/y.png'])
    assert scanned == [str(folder), str(folder / 'sub')]


@pytest.mark.parametrize('name', ['é.png', 'b.jpg'])
@pytest.mark.parametrize(
    'damage',
    [lambda b: b[: len(b) // 2], lambda b: b[:-2], lambda b: b'<html>', lambda b: b''],
    ids=['half', 'all but the end', 'a web page', 'empty'],
)
def test_damaged_images(folder, name, damage):
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(damage(raw))
    files = open_images(folder, IMAGES)
    assert list(files.damaged) == [name]
    (fault,) = check_images(sound()['images'], files)
    assert (fault.code, fault.count) == ('damaged-image', 1)
    assert repr(name) in fault.examples[0]


@pytest.mark.openmmlab
def test_a_photograph_turned_by_exif_has_the_size_that_mmdet_sees(folder):
    import mmcv

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new('RGB', (34, 40)).save(folder / 'b.jpg', exif=exif)
    assert mmcv.imread(str(folder / 'b.jpg')).shape == (34, 40, 3)
    assert check_images(sound()['images'], open_images(folder, IMAGES)) == []
    Image.new('RGB', (34, 40)).save(folder / 'b.jpg')
    (fault,) = check_images(sound()['images'], open_images(folder, IMAGES))
    assert fault.code == 'image-size'
    assert fault.examples == ("'b.jpg' is 34 x 40, not 40 x 34",)


@pytest.mark.parametrize(
    ('dtype', 'channels', 'ending'),
    [
        (np.uint16, 3, 'png'),
        (np.uint16, 1, 'png'),
        (np.uint8, 1, 'jpg'),
        (np.uint8, 4, 'png'),
        (np.uint8, 3, 'bmp'),
        (np.uint8, 3, 'tiff'),
        (np.uint8, 3, 'webp'),
    ],
)
def test_images_of_other_kinds_are_read(tmp_path, dtype, channels, ending):
    path = tmp_path / f'a.{ending}'
    assert cv2.imwrite(str(path), np.zeros((7, 9, channels), dtype))
    assert read_size(path) == (9, 7)


def test_a_folder_without_any_of_the_images(write, tmp_path, command):
    (tmp_path / 'empty').mkdir()
    file = write(sound())
    code, _, err = command('data', 'check', file, '--images', tmp_path / 'empty')
    assert code == 2 and 'none of the 3 image files' in err and 'é.png' in err
    code, _, err = command('data', 'check', file, '--images', tmp_path / 'no')
    assert code == 2 and 'does not exist' in err


# --- files that are none


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('', ['is not JSON', 'empty']),
        ('{"images": [{"id": 1', ['is not JSON', 'ends too early']),
        ('{"images": }', ['is not JSON', 'column 12']),
        ('[' * 100_000, ['is not JSON', 'nested']),
        ('{"a": ' + '1' * 5000 + '}', ['is not JSON']),
        ('\xff', ['is not JSON']),
        ('[]', ["list 'images'", 'Found: list']),
        ('3', ["list 'images'", 'Found: int']),
        ('{}', ["list 'images'", 'Found: nothing']),
        ('{"images": {"id": 1}}', ["list 'images'", "Found: 'images'"]),
        ('{"images": [{"id": 1}]}', ["list 'categories'"]),
        ('[{"image_id": 1, "score": 0.5}]', ['list of detections']),
        ('[{"image_id": 1, "bbox": []}]', ['without the rest']),
        ('[{"file_name": "a", "annotations": []}]', ['Detectron2']),
        ('{"shapes": [], "imagePath": "a"}', ['labelme']),
        ('{"images": [1], "categories": [1], "annotations": {}}', ['type dict']),
        (
            '{"images": [1], "categories": [1], "annotations": [{"segments_info": 1}]}',
            ['panoptic', 'instances'],
        ),
    ],
)
def test_other_files_are_refused_and_recognised(tmp_path, command, text, parts):
    path = tmp_path / 'other.json'
    path.write_bytes(text.encode('latin1'))
    code, out, err = command('data', 'check', path)
    assert (code, out) == (2, '')
    for part in (str(path), *parts):
        assert part in err


def test_missing_file_and_a_folder(tmp_path, command):
    code, _, err = command('data', 'check', tmp_path / 'no.json')
    assert code == 2 and 'does not exist' in err
    code, _, err = command('data', 'check', tmp_path)
    assert code == 2 and 'cannot be read' in err


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_byte_order_mark_is_a_fault_of_pycocotools(tmp_path, encoding):
    path = tmp_path / 'bom.json'
    path.write_text(json.dumps(sound()), encoding=encoding)
    file = read_annotations(path)
    content, (fault,) = file.content, file.faults
    assert content == sound() and fault.code == 'byte-order-mark'
    with open(path) as file, pytest.raises(ValueError):
        json.load(file)  # as pycocotools reads


@pytest.mark.parametrize('annotations', [None, []])
def test_image_information_alone_is_good_for_testing(write, command, annotations):
    content = sound()
    del content['annotations']
    if annotations is not None:
        content['annotations'] = annotations
    code, out, _ = command('data', 'check', write(content))
    assert code == 0 and 'note:' in out and 'good for testing' in out


# --- the command


def test_exit_codes_and_counts(write, command):
    content = sound()
    content['annotations'][0]['id'] = 0
    content['annotations'][1]['bbox'] = [1, 2, 0, 4]
    code, out, _ = command('data', 'check', write(content))
    assert code == 1
    assert re.search(
        r'^  error:   1 x zero-annotation-id: .*\(annotation 0\)', out, re.M
    )
    assert re.search(r'^  warning: 1 x empty-bbox: ', out, re.M)
    assert out.splitlines()[-1] == 'kinds of fault: 1 error, 1 warning'


def test_notes_do_not_change_the_exit_code(write, command):
    content = sound()
    content['categories'].append({'id': 5, 'name': 'cow'})
    code, out, _ = command('data', 'check', write(content))
    assert code == 0
    assert '  note:    1 x class-without-objects: class without an annotation' in out


def test_json(write, command):
    content = sound()
    content['annotations'][0]['id'] = 0
    file = write(content)
    code, out, _ = command('data', 'check', file, '--val', file, '--json')
    result = json.loads(out)
    assert code == 1
    assert result['files'] == [str(file)] * 2
    assert result['counts'] == {'images': 3, 'annotations': 4, 'categories': 2}
    assert result['val_counts'] == result['counts']
    assert [(one['code'], one['count']) for one in result['faults']] == [
        ('zero-annotation-id', 1),
        ('zero-annotation-id', 1),
        ('split-same-file-name', 3),
    ]
    first = result['faults'][0]
    assert first['severity'] == 'error' and first['examples'] == ['annotation 0']
    assert 'pycocotools' in first['message'] and first['fix'] == 'ids renumbered from 1'


def test_classes_on_the_command_line(write, command):
    file = write(sound())
    assert command('data', 'check', file, '--classes', 'cat', 'dog')[0] == 0
    code, out, _ = command('data', 'check', file, '--classes', 'cat,dog')
    assert code == 1 and '1 x classes-string' in out
    content = sound()
    content['categories'][0]['name'] = 'cat,big'
    file = write(content, 'comma.json')
    assert command('data', 'check', file, '--classes', 'cat,big')[0] == 0


def test_images_of_a_validation_file_that_is_not_given(write, folder, command):
    code, _, err = command('data', 'check', write(sound()), '--val-images', folder)
    assert code == 2 and '--val' in err


def test_control_characters_are_printed_escaped(write, command):
    content = sound()
    content['categories'] += [
        {'id': 3, 'name': 'a\x1b[2J\n'},
        {'id': 4, 'name': 'A\x1b[2J\n'},
    ]
    content['images'][0].update(file_name='\x1b]0;x\x07.png', width=0)
    for words in ((), ('--val', write(sound(), 'val.json'))):
        code, out, _ = command('data', 'check', write(content), *words)
        assert code == 1 and '\x1b' not in out and '\x07' not in out
        assert r"'a\x1b[2J\n'" in out and r"'\x1b]0;x\x07.png'" in out


def test_control_characters_of_the_files_own_name(write, command):
    content = sound()
    content['annotations'][0]['id'] = 0
    code, out, _ = command('data', 'check', write(content, 'a\x1b[2J.json'))
    assert code == 1 and '\x1b' not in out and r'a\x1b[2J.json: 3 images' in out


def test_other_alphabets_are_printed_as_they_are(write, command):
    content = sound()
    content['images'][0].update(file_name='猫 №1.png', width=0)
    assert '猫 №1.png' in command('data', 'check', write(content))[1]


def test_check_data_starts_without_torch_and_mmdet(tmp_path):
    import subprocess

    from tests.conftest import PYTHON

    (tmp_path / 'a.json').write_text(json.dumps(sound()))
    code = (
        'import sys; from eca_mmdet.cli import main\n'
        f'main(["data check", {str(tmp_path / "a.json")!r}])\n'
        'print(sorted({"torch", "mmengine", "mmdet"} & set(sys.modules)))'
    )
    done = subprocess.run(
        [PYTHON, '-c', code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout.splitlines()[-2:] == ['no fault', '[]']


def test_every_fault_is_explained_in_the_docs():
    text = (REPOSITORY / 'docs' / 'data.md').read_text()
    rows = dict(re.findall(r'^\| `([\w-]+)` \| (\w+) \|', text, re.MULTILINE))
    assert rows == {
        rule.code: rule.severity
        for rule in (*check.RULES, *check.SPLIT_RULES, BYTE_ORDER_MARK)
    }, 'python tools/update_readme.py'


def test_written_files_have_the_optional_fields(write, tmp_path, command):
    """mmdet's tools read them: split_coco.py, coco_error_analysis.py."""
    image = {'id': 1, 'file_name': 'a.png', 'width': 90, 'height': 90}
    box = {'image_id': 1, 'bbox': [1, 1, 4, 4], 'area': 16, 'iscrowd': 0}
    content = {
        'images': [image, {**image, 'id': 2, 'file_name': 'b.png'}],
        'annotations': [
            {'id': 1, 'category_id': 1, **box},
            {'id': 2, 'category_id': 2, **box, 'image_id': 2},
        ],
        'categories': [
            {'id': 1, 'name': 'cat', 'supercategory': 'animal'},
            {'id': 2, 'name': 'cup'},
        ],
        'info': {'year': 2026},
    }
    file = write(content)
    assert command('data', 'check', file, '--fix', tmp_path / 'fixed.json')[0] == 0
    assert (
        command('data', 'split', file, '--val', '0.5', '--out', tmp_path / 'parts')[0]
        == 0
    )
    written = [tmp_path / 'fixed.json', *sorted(tmp_path.glob('parts/*.json'))]
    assert len(written) == 3
    for path in written:
        found = json.loads(path.read_text())
        assert found['info'] == {'year': 2026} and found['licenses'] == []
        groups = [entry['supercategory'] for entry in found['categories']]
        assert groups == ['animal', 'none']


@pytest.mark.parametrize('turn', [None, 1, 6])
@pytest.mark.parametrize('kind', ['L', 'RGB', 'CMYK', 'png', 'progressive'])
def test_sizes_are_those_of_the_decoded_image(tmp_path, kind, turn):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 50, 3), np.uint8)
    mode = kind if len(kind) < 5 and kind != 'png' else 'RGB'
    options = {} if turn is None else {'exif': Image.Exif()}
    if turn is not None:
        options['exif'][274] = turn
    path = tmp_path / ('a.png' if kind == 'png' else 'a.jpg')
    image = Image.fromarray(pixels).convert(mode)
    image.save(path, progressive=kind == 'progressive', **options)
    assert check_size(path) == read_size(path)
    assert (turn == 6) == (check_size(path)[0] < 50) or kind == 'png'
    whole = path.read_bytes()
    for damaged in (whole[:-2], whole[:200], whole[200:], b'', whole + bytes(9)):
        path.write_bytes(damaged)
        assert check_size(path) == read_size(path)


def test_a_whole_jpeg_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (31, 17)).save(path)
    monkeypatch.setattr('eca_mmdet.datasets.images.decode', None)
    assert check_size(path) == (31, 17)
