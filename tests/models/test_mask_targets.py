"""Masks inside of boxes: mmdet's values, from one mask an object."""

import numpy as np
import pytest
import torch


@pytest.fixture
def masks(mmdet_ready):
    from mmdet.structures.mask import BitmapMasks

    draw = np.random.default_rng(0)
    return BitmapMasks(draw.integers(0, 2, (5, 61, 83), np.uint8), 61, 83)


def boxes(count):
    draw = np.random.default_rng(1)
    start = draw.uniform((-5, -5), (70, 50), (count, 2))
    return np.concatenate([start, start + draw.uniform(0, 40, (count, 2))], 1)


@pytest.mark.parametrize('binarize', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('as_arrays', [True, False])
def test_values_of_mmdet(masks, binarize, dtype, as_arrays):
    from eca_mmdet.models import mask_targets

    objects = torch.tensor([4, 1, 1, 3, 1, 4, 4, 3, 0])  # object 2 has no box
    regions = torch.from_numpy(boxes(len(objects))).to(dtype)
    if as_arrays:
        objects, regions = objects.numpy(), regions.numpy()
    arguments = (regions, (14, 9), objects, 'cpu', 'bilinear', binarize)
    expected = mask_targets._crop_none(masks, *arguments)
    found = masks.crop_and_resize(*arguments)
    assert found.masks.dtype == expected.masks.dtype
    assert (found.height, found.width) == (expected.height, expected.width)
    np.testing.assert_array_equal(found.masks, expected.masks)
    assert 0 < found.masks.mean() < 1


@pytest.mark.parametrize(('objects', 'count'), [(0, 3), (5, 0)])
def test_no_masks_or_no_boxes(masks, objects, count):
    from eca_mmdet.models import mask_targets

    few = masks[np.arange(objects)]
    arguments = (boxes(count).astype(np.float32), (7, 7), np.zeros(count, np.int64))
    expected = mask_targets._crop_none(few, *arguments)
    found = few.crop_and_resize(*arguments)
    assert (len(found), found.masks.shape) == (len(expected), expected.masks.shape)


@pytest.mark.parametrize('index', [-1, 5])
def test_an_object_that_is_not_there(masks, index):
    from eca_mmdet.models import mask_targets

    for crop in (mask_targets._crop_none, mask_targets.crop_and_resize):
        with pytest.raises(IndexError):
            crop(masks, boxes(1), (7, 7), np.array([index]))


def test_a_mask_is_not_copied_for_each_box(masks):
    from eca_mmdet.analysis.exact_cost import Meter

    regions = torch.from_numpy(boxes(400)).float()
    objects = torch.arange(400) % 5
    with Meter() as meter:
        masks.crop_and_resize(regions, (4, 4), objects)
    results = 400 * (4 * 4 + 5 + 2) * 4 * 2
    assert meter.peak_bytes < 5 * 61 * 83 * (1 + 4) + 2 * results < 400 * 61 * 83


def test_mask_heads_use_it(mmdet_ready):
    from mmdet.structures.mask import BitmapMasks, mask_target
    from mmengine.config import ConfigDict

    whole = BitmapMasks(np.ones((1, 8, 8), np.uint8), 8, 8)
    region = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    targets = mask_target(
        [region], [torch.tensor([0])], [whole], ConfigDict(mask_size=4)
    )
    assert targets.tolist() == [[[1.0] * 4] * 4]
    assert BitmapMasks.crop_and_resize.__module__ == 'eca_mmdet.models.mask_targets'
