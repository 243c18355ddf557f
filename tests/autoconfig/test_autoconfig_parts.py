"""What init proposes, against hand-worked numbers; the text that it writes."""

import ast
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torchvision.ops import box_iou

from eca_mmdet.autoconfig import proposals
from eca_mmdet.autoconfig.inputs import AnnotationFile, align
from eca_mmdet.autoconfig.proposals import (
    Anchors,
    best_iou,
    count,
    read_anchors,
)
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.text import Commented, assignment, comment

FPN = Anchors('scales', (8.0,), (1.0,), (4, 8, 16, 32, 64), (0.5, 1.0, 2.0))


def content(images, boxes):
    """An annotation file: image sizes, and (image, width, height) of boxes."""
    return dict(
        images=[
            dict(id=n, file_name=f'{n}.png', width=w, height=h)
            for n, (w, h) in enumerate(images)
        ],
        categories=[dict(id=1, name='a')],
        annotations=[
            dict(id=n, image_id=i, category_id=1, bbox=[0, 0, w, h], area=w * h)
            for n, (i, w, h) in enumerate(boxes, 1)
        ],
    )


def test_statistics():
    file = content([(200, 100), (50, 80), (60, 60)], [(0, 10, 20), (1, 5, 5)])
    extra = [
        dict(id=8, image_id=1, category_id=1, bbox=[0, 0, 40, 40], iscrowd=1),
        dict(id=9, image_id=1, category_id=1, bbox=[0, 0, -4, 40]),
        dict(id=10, image_id=77, category_id=1, bbox=[0, 0, 4, 4]),  # of no image
        'rubbish',
    ]
    file['annotations'] += extra
    file['annotations'][0]['segmentation'] = [[0, 0, 10, 0, 10, 20]]
    found = count(file)
    assert found.sizes.tolist() == [[200, 100], [50, 80], [60, 60]]
    assert found.boxes.tolist() == [[10, 20], [5, 5]]  # no crowd, none without a width
    assert found.image.tolist() == [0, 1]
    assert (found.objects, found.unmasked, found.empty_images) == (4, 3, 1)
    assert found.median_size == (80, 60)
    # min(400 / 200, 150 / 100) = 1.5; min(400 / 80, 150 / 50) = 3.
    assert found.factors((400, 150)).tolist() == [1.5, 3, 2.5]
    assert found.scaled_boxes((400, 150)).tolist() == [[15, 30], [15, 15]]


@pytest.mark.parametrize(
    ('image', 'side', 'expected'),
    [
        ((640, 480), 10, (1333, 800)),  # 53 px are needed, 1.67 times is the most
        ((640, 480), 32, (800, 480)),  # as it is: 1333 * 0.6, 800 * 0.6
        ((640, 480), 500, (800, 480)),  # never smaller than the image
        ((640, 480), 25.6, (1024, 608)),  # 1.25 times: 1000 and 600, rounded up
        ((4000, 3000), 500, (1333, 800)),  # the config's own is the largest
        ((640, 480), 19.5, (1333, 800)),  # 1.64 times is nearly the same
    ],
)
def test_image_size(image, side, expected):
    statistics = count(content([image], [(0, side, side)] * 3))
    proposal = proposals.propose_size(statistics, (1333, 800))
    assert proposal.value == expected
    assert proposal.changed == (expected != (1333, 800))
    if proposal.changed:  # what is said is what mmdet's Resize will do
        factor = statistics.factors(expected)[0]
        assert f'is changed by {factor:.2f}' in proposal.why
        assert f'have {side * factor:.0f} px or more' in proposal.why
        assert side * factor >= proposals.ENOUGH_PX


def test_image_size_without_objects():
    proposal = proposals.propose_size(count(content([(640, 480)], [])), (1333, 800))
    assert proposal.value == (1333, 800) and 'no objects' in proposal.why


def test_best_iou_is_that_of_boxes():
    """Against torchvision, with boxes and anchors around the same centre."""
    rng = np.random.default_rng(0)
    boxes, shapes = rng.uniform(2, 300, (50, 2)), rng.uniform(2, 300, (15, 2))
    placed = [
        torch.tensor(np.concatenate([-one / 2, one / 2], 1)) for one in (boxes, shapes)
    ]
    expected = box_iou(*placed).max(dim=1).values.numpy()
    np.testing.assert_allclose(best_iou(boxes, shapes), expected)


def test_anchors_are_those_of_mmdet(mmdet_ready):
    from mmdet.models.task_modules import AnchorGenerator
    from mmengine.config import ConfigDict

    for entry in (
        dict(scales=[4, 9], ratios=[0.5, 1.0, 3.0], strides=[4, 8, 16]),
        dict(
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0],
            strides=[8, 16, 32],
        ),
    ):
        ours = read_anchors(ConfigDict(type='mmdet.AnchorGenerator', **entry)).shapes()
        theirs = torch.cat(AnchorGenerator(**entry).base_anchors)
        theirs = (theirs[:, 2:] - theirs[:, :2]).numpy()
        order = [np.lexsort(one.round(3).T) for one in (ours, theirs)]
        np.testing.assert_allclose(ours[order[0]], theirs[order[1]], rtol=1e-5)


@pytest.mark.parametrize(
    'entry',
    [
        None,
        dict(type='SSDAnchorGenerator', ratios=[[2]], strides=[8]),
        dict(
            type='AnchorGenerator',
            ratios=[1.0],
            strides=[8],
            base_sizes=[4],
            scales=[1],
        ),
        dict(type='AnchorGenerator', ratios=[1.0], strides=[(8, 4)], scales=[1]),
        dict(type='AnchorGenerator', ratios=[1.0], strides=[8]),
    ],
)
def test_other_anchors_are_left_alone(entry):
    assert read_anchors(entry) is None


def test_anchors_stay_where_nothing_is_gained():
    side = np.exp(np.linspace(np.log(32), np.log(500), 200))
    boxes = np.stack([side, side], 1)
    proposal = proposals.propose_anchors(boxes, FPN)
    assert not proposal.changed and 'cover 100%' in proposal.why


def test_anchors_for_small_and_for_thin_objects():
    small = proposals.propose_anchors(np.full((200, 2), 9.0), FPN)
    # 9 px square: stride 4 with a scale of 2 or 2.8 is nearest; 8 gives 32 px.
    assert small.value.base[0] in (2.0, 2.8) and small.value.ratios == FPN.ratios
    thin = np.stack([np.linspace(30, 60, 200), np.linspace(30, 60, 200) * 7], 1)
    proposal = proposals.propose_anchors(thin, FPN)
    assert proposal.value.ratios == (4.9, 7.0, 9.9)  # 7 / 1.41, 7 * 1.41
    before, after = (best_iou(thin, one.shapes()) for one in (FPN, proposal.value))
    assert after.mean() > before.mean() + proposals.IOU_GAIN
    # Weights of the head fit: as many anchors as before.
    assert proposal.value.shapes().shape == FPN.shapes().shape


def test_few_boxes_change_no_anchors():
    proposal = proposals.propose_anchors(
        np.full((proposals.LEAST_BOXES - 1, 2), 9.0), FPN
    )
    assert not proposal.changed and '199 boxes are too few' in proposal.why


def test_many_boxes_are_a_sample_and_the_same_again():
    boxes = np.random.default_rng(1).uniform(5, 50, (proposals.MOST_BOXES + 500, 2))
    assert proposals.propose_anchors(boxes, FPN) == proposals.propose_anchors(
        boxes, FPN
    )


@pytest.mark.parametrize(
    ('images', 'detector', 'asked', 'expected'),
    [
        (118_287, False, None, (12, (8, 11), 500, 1)),  # COCO: the paper's recipe
        (400, False, None, (60, (40, 55), 500, 5)),  # 24,000 / 400
        (50, False, None, (100, (66, 91), 250, 8)),  # 25 steps an epoch, a tenth
        (4000, True, None, (6, (4, 5), 500, 1)),
        (400, True, None, (20, (13, 18), 400, 1)),
        (3, False, 1, (1, (1, 2), 2, 1)),
    ],
)
def test_schedule(images, detector, asked, expected):
    one = proposals.propose_schedule(images, 2, detector, asked)
    assert (one.epochs, one.milestones, one.warmup, one.interval) == expected


def test_batch_by_memory(mmdet_ready, monkeypatch):
    """A stub for the GPU; the count of a step is that of eca-mmdet cost."""
    from eca_mmdet.engine.config import load_config

    cfg = load_config('faster-rcnn_eca-r18-w16_fpn_shapes')
    assert proposals.propose_batch(cfg, 160)[0] == 8  # the config's
    needed = proposals._bytes_an_image(cfg, 160)
    assert needed > 160 * 160 * 3 * 4
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for images, batch in ((0.2, 1), (1.5, 1), (3.1, 2), (9, 8), (500, 16)):
        free = int(needed * images / 0.7) + 1
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda free=free: (0, free))
        assert proposals.propose_batch(cfg, 160)[0] == batch


def part(tmp_path, name, pairs):
    file = tmp_path / name
    content = dict(
        images=[dict(id=1, file_name='a.png')],
        annotations=[dict(id=1, image_id=1, category_id=3)],
        categories=[dict(id=n, name=word, mine=word) for n, word in pairs],
    )
    file.write_text(json.dumps(content))
    return AnnotationFile(file, tmp_path, content)


def test_categories_of_the_validation_file_are_put_in_order(tmp_path):
    train = part(tmp_path, 't.json', [(1, 'a'), (2, 'b'), (3, 'c')])
    val = part(tmp_path, 'v.json', [(3, 'b'), (1, 'x'), (2, 'a')])
    for _ in range(2):  # the second time the file is there, with the same content
        found = align(train, val)
        assert found.file == tmp_path / 'v_as_t.json'
        written = json.loads(found.file.read_text())
        ids = [(one['id'], one['name']) for one in written['categories']]
        # c takes a number that nothing has; what training does not know comes last.
        assert ids == [(2, 'a'), (3, 'b'), (4, 'c'), (1, 'x')]
        assert [one['mine'] for one in written['categories']] == ['a', 'b', 'c', 'x']
        assert written['annotations'] == val.content['annotations']
        assert found.content == written
    found.file.write_text(json.dumps(dict(written, images=[dict(id=2, file_name='')])))
    with pytest.raises(UserError) as error:
        align(train, val)
    assert error.value.code == 'output-exists'


@pytest.mark.parametrize(
    'pairs',
    [
        [(1, 'a'), (2, 'b')],
        [(7, 'a'), (1, 'b')],  # ids do not matter
        [(5, 'x'), (1, 'a'), (3, 'y'), (2, 'b')],  # mmdet leaves others out
    ],
)
def test_a_validation_file_in_order_stays(tmp_path, pairs):
    train = part(tmp_path, 't.json', [(1, 'a'), (2, 'b')])
    val = part(tmp_path, 'v.json', pairs)
    assert align(train, val) is val
    assert not (tmp_path / 'v_as_t.json').exists()


def test_names_that_are_spelt_differently(tmp_path):
    train = part(tmp_path, 't.json', [(1, 'traffic light'), (2, 'b')])
    val = part(tmp_path, 'v.json', [(1, 'Traffic  light'), (2, 'b')])
    with pytest.raises(UserError, match="'traffic light' and 'Traffic  light'"):
        align(train, val)


def read(text):
    """Run an assignment; mmengine's configs are Python as well."""
    scope = {}
    exec(compile(ast.parse(text), 'config', 'exec'), scope)
    return scope['x']


plain = some.none() | some.booleans() | some.integers() | some.text(max_size=60)
nested = some.recursive(
    plain,
    lambda one: (
        some.lists(one, max_size=4)
        | some.lists(one, max_size=4).map(tuple)
        | some.dictionaries(some.sampled_from(['a', 'type', 'key_b']), one)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(nested, some.text(max_size=120))
def test_text_is_read_back(value, why):
    text = assignment('x', Commented({'top': Commented(value, why), 'type': 'T'}, why))
    assert read(text) == {'top': value, 'type': 'T'}
    assert '{{' not in text
    assert all(line[0] in 'x#) ' for line in text.splitlines())


def test_text_is_short():
    value = dict(type='Resize', scale=(736, 448), keep_ratio=True)
    assert assignment('x', value) == (
        "x = dict(type='Resize', scale=(736, 448), keep_ratio=True)\n"
    )
    assert (
        assignment('x', Commented(('one',), 'A reason.'))
        == "# A reason.\nx = ('one',)\n"
    )
    long = assignment('x', [value, value])
    assert long.splitlines()[1] == (
        "    dict(type='Resize', scale=(736, 448), keep_ratio=True),"
    )
    words = 'word ' * 40
    assert max(map(len, comment(words).splitlines())) <= 88


def test_names_with_braces_pass_mmengine(tmp_path, mmdet_ready):
    """It replaces {{ ... }} anywhere in a config's text."""
    from mmengine.config import Config

    names = ('{{ fileBasename }}', '{{$HOME:x}}', "it's {{_base_.model}}", 'a"b\'c\\')
    path = tmp_path / 'a.py'
    path.write_text(assignment('x', names), encoding='utf-8')
    assert Config.fromfile(str(path)).x == names
