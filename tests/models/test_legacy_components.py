"""Each of MMDetection v1's behaviours, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from tests.support.legacy import boxes, inclusive_iou

pytestmark = pytest.mark.openmmlab


class TestBoxCoder:
    @pytest.mark.parametrize(
        ('box', 'offsets', 'expected'),
        [
            # 9 wide, 9 high, centre 4, 4: no offsets give the box itself.
            ((0, 0, 8, 8), (0, 0, 0, 0), (0, 0, 8, 8)),
            # centre moves by 9 * 1/9 = 1 and 9 * 2/9 = 2
            ((0, 0, 8, 8), (1 / 9, 2 / 9, 0, 0), (1, 2, 9, 10)),
            # twice as wide: 18; 4 -+ 9 +- 0.5
            ((0, 0, 8, 8), (0, 0, math.log(2), 0), (-4.5, 0, 12.5, 8)),
            # one pixel: 1 wide; three times as high: 5 -+ 1.5 +- 0.5
            ((5, 5, 5, 5), (0, 0, 0, math.log(3)), (5, 4, 5, 6)),
            # clamped: size 2 * exp(log(1000 / 16)) = 125, centre 10.5
            ((10, 0, 11, 1), (0, 0, 9, 0), (10.5 - 62, 0, 10.5 + 62, 1)),
            # clamped: size 2 * 16 / 1000
            ((10, 0, 11, 1), (0, 0, -9, 0), (10.5 - 0.016 + 0.5, 0, 10.016, 1)),
            # inverted: width -1 + 1 = 0, so that offsets do nothing
            ((4, 4, 3, 3), (5, 5, 1, 1), (4, 4, 3, 3)),
        ],
    )
    def test_decode(self, legacy, box, offsets, expected):
        found = legacy.V1BoxCoder().decode(boxes(box), boxes(offsets))
        torch.testing.assert_close(found, boxes(expected), rtol=1e-6, atol=1e-4)

    def test_corners_are_clamped_to_the_last_pixel(self, legacy):
        found = legacy.V1BoxCoder().decode(
            boxes((-5, -5, 40, 30)), boxes((0, 0, 0, 0)), max_shape=(20, 30)
        )
        assert found.tolist() == [[0, 0, 29, 19]]

    def test_many_classes_and_stds(self, legacy):
        coder = legacy.V1BoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
        offsets = torch.randn(5, 12)
        anchors = torch.rand(5, 4) * 50
        anchors[:, 2:] += anchors[:, :2]
        found = coder.decode(anchors, offsets)
        assert found.shape == (5, 12)
        for c in range(3):
            one = coder.decode(anchors, offsets[:, 4 * c : 4 * c + 4])
            assert torch.equal(found[:, 4 * c : 4 * c + 4], one)
        plain = legacy.V1BoxCoder().decode(
            anchors, offsets[:, :4] * torch.tensor([0.1, 0.1, 0.2, 0.2])
        )
        torch.testing.assert_close(found[:, :4], plain)

    def test_encode_is_the_inverse(self, legacy):
        coder = legacy.V1BoxCoder((0.1, 0, 0, 0), (0.1, 0.1, 0.2, 0.2))
        anchors, targets = torch.rand(2, 50, 4) * 100
        for corners in (anchors, targets):  # sides of 10 to 110: no ratio is clamped
            corners[:, 2:] += corners[:, :2] + 10
        found = coder.decode(anchors, coder.encode(anchors, targets))
        torch.testing.assert_close(found, targets, rtol=1e-5, atol=1e-3)
        expected = math.log((3 - 0 + 1) / (1 - 0 + 1)) / 0.2
        offsets = coder.encode(boxes((0, 0, 1, 1)), boxes((0, 0, 3, 3)))
        assert offsets[0, 2].item() == pytest.approx(expected)
        assert offsets[0, 0].item() == pytest.approx(((1.5 - 0.5) / 2 - 0.1) / 0.1)

    def test_no_boxes(self, legacy):
        found = legacy.V1BoxCoder().decode(torch.zeros(0, 4), torch.zeros(0, 320))
        assert found.shape == (0, 320)


def naive_v1_roi_align(feature, roi, size, stride, samples=2):
    """v1's RoIAlign for one RoI, sample by sample: no half-pixel shift, size + 1."""
    height, width = feature.shape[1:]
    x1, y1, x2, y2 = (value / stride for value in roi)
    x2, y2 = (roi[2] + 1) / stride, (roi[3] + 1) / stride
    bin_w, bin_h = max(x2 - x1, 0) / size, max(y2 - y1, 0) / size
    result = torch.zeros(feature.shape[0], size, size)

    def at(y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return torch.zeros(feature.shape[0])
        y, x = max(y, 0), max(x, 0)
        low_y, low_x = min(int(y), height - 1), min(int(x), width - 1)
        y = low_y if low_y >= height - 1 else y
        x = low_x if low_x >= width - 1 else x
        high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
        dy, dx = y - low_y, x - low_x
        return (
            feature[:, low_y, low_x] * (1 - dy) * (1 - dx)
            + feature[:, low_y, high_x] * (1 - dy) * dx
            + feature[:, high_y, low_x] * dy * (1 - dx)
            + feature[:, high_y, high_x] * dy * dx
        )

    for i in range(size):
        for j in range(size):
            for sy in range(samples):
                for sx in range(samples):
                    result[:, i, j] += at(
                        y1 + (i + (sy + 0.5) / samples) * bin_h,
                        x1 + (j + (sx + 0.5) / samples) * bin_w,
                    )
    return result / samples**2


class TestRoIExtractor:
    @pytest.fixture
    def extractor(self, legacy):
        return legacy.V1RoIExtractor(
            roi_layer=dict(
                type='RoIAlign', output_size=3, sampling_ratio=2, aligned=True
            ),
            out_channels=2,
            featmap_strides=[4, 8],
        )

    @pytest.mark.parametrize(
        ('side', 'level'),
        [(110, 0), (111, 1), (222, 1), (223, 2), (446, 2), (447, 3), (5000, 3), (0, 0)],
    )
    def test_levels_count_both_corners(self, extractor, side, level):
        """Side 111 is 112 pixels: level 1 begins at 2 * 56."""
        rois = boxes((0, 10, 20, 10 + side, 20 + side))
        assert extractor.map_roi_levels(rois, 4).tolist() == [level]

    def test_level_of_a_long_box(self, extractor):
        # 448 x 28 pixels: sqrt(448 * 28) = 112
        assert extractor.map_roi_levels(boxes((0, 0, 0, 447, 27)), 4).tolist() == [1]
        assert extractor.map_roi_levels(boxes((0, 0, 0, 446, 27)), 4).tolist() == [0]

    @pytest.mark.parametrize(
        'roi',
        [
            (3.0, 5.0, 40.0, 30.0),
            (0.0, 0.0, 0.0, 0.0),
            (20.5, 10.25, 20.5, 10.25),
            (-6.5, -3.25, 60.0, 40.0),
            (30.0, 30.0, 29.5, 29.0),  # inverted by less than a pixel
            (30.0, 30.0, 20.0, 20.0),  # inverted: size 0
            (60.0, 60.0, 63.0, 63.0),
            (55.0, 2.0, 100.0, 90.0),  # beyond the image
        ],
    )
    def test_features(self, extractor, roi):
        features = (torch.randn(1, 2, 16, 16), torch.randn(1, 2, 8, 8))
        found = extractor(features, boxes((0, *roi)))[0]
        expected = naive_v1_roi_align(features[0][0], roi, 3, 4)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_images_and_levels_of_a_batch(self, extractor):
        features = (torch.randn(2, 2, 50, 50), torch.randn(2, 2, 25, 25))
        rois = boxes((1, 3, 5, 40, 30), (0, 0, 0, 150, 150), (1, 10, 10, 190, 180))
        found = extractor(features, rois)
        for i, (image, level) in enumerate(((1, 0), (0, 1), (1, 1))):
            expected = naive_v1_roi_align(
                features[level][image], rois[i, 1:].tolist(), 3, 4 << level
            )
            torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=1e-5)

    def test_no_rois(self, extractor):
        features = (torch.randn(1, 2, 16, 16), torch.randn(1, 2, 8, 8))
        assert extractor(features, torch.zeros(0, 5)).shape == (0, 2, 3, 3)

    @pytest.mark.parametrize('layer', [dict(type='RoIPool'), dict(aligned=False)])
    def test_other_layers_are_refused(self, legacy, layer):
        roi_layer = dict(dict(type='RoIAlign', output_size=3), **layer)
        with pytest.raises(ValueError, match='aligned=True'):
            legacy.V1RoIExtractor(
                roi_layer=roi_layer, out_channels=2, featmap_strides=[4]
            )


def naive_nms(corners, scores, threshold):
    """Greedy suppression with areas of inclusive corners; indices ascending."""
    order, kept = scores.argsort(descending=True).tolist(), []
    while order:
        best, *rest = order
        kept.append(best)
        order = [
            i for i in rest if inclusive_iou(corners[best], corners[i]) <= threshold
        ]
    return sorted(kept)


def random_boxes(count, size=60):
    corners = torch.rand(count, 4) * size
    corners[:, 2:] = corners[:, :2] + torch.rand(count, 2) * 30
    return corners


class TestNMS:
    def test_areas_count_both_corners(self, legacy):
        """1-pixel boxes side by side do not overlap; on each other they do."""
        from eca_mmdet.models.legacy import v1_nms

        corners = boxes((0, 0, 0, 0), (1, 0, 1, 0), (0, 0, 0, 0))
        scores = torch.tensor([0.5, 0.6, 0.7])
        assert v1_nms(corners, scores, 0.5).tolist() == [1, 2]
        # 0..9 and 0..4: 50 of 100 inclusive pixels; not more than a half
        corners = boxes((0, 0, 9, 9), (0, 0, 9, 4))
        assert v1_nms(corners, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
        corners = boxes((0, 0, 9, 9), (0, 0, 9, 5))
        assert v1_nms(corners, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]

    def test_against_a_loop(self, legacy):
        from eca_mmdet.models.legacy import v1_nms

        for _ in range(5):
            corners, scores = random_boxes(60), torch.rand(60)
            found = v1_nms(corners, scores, 0.5).tolist()
            assert found == naive_nms(corners, scores, 0.5)

    @pytest.mark.parametrize('shared', [True, False])
    @pytest.mark.parametrize('max_num', [-1, 5, 1000])
    def test_classes_against_a_loop(self, legacy, shared, max_num):
        from eca_mmdet.models.legacy import v1_multiclass_nms

        corners = random_boxes(40) if shared else random_boxes(120).reshape(40, 12)
        scores = torch.rand(40, 3)
        expected = []
        for label in range(3):
            own = corners if shared else corners[:, 4 * label : 4 * label + 4]
            chosen = (scores[:, label] > 0.4).nonzero()[:, 0]
            kept = naive_nms(own[chosen], scores[chosen, label], 0.5)
            for i in chosen[kept].tolist():
                expected.append((label, scores[i, label].item(), own[i].tolist()))
        if 0 <= max_num < len(expected):
            expected = sorted(expected, key=lambda row: -row[1])[:max_num]
        found = v1_multiclass_nms(corners, scores, 0.4, 0.5, max_num)
        assert found[2].tolist() == [row[0] for row in expected]
        assert found[1].tolist() == [row[1] for row in expected]
        assert found[0].tolist() == [row[2] for row in expected]

    def test_scores_at_the_threshold_are_dropped(self, legacy):
        from eca_mmdet.models.legacy import v1_multiclass_nms

        found = v1_multiclass_nms(
            random_boxes(3), torch.tensor([[0.5], [0.25], [0.2]]), 0.25, 0.5
        )
        assert found[1].tolist() == [0.5]

    def test_nothing(self, legacy):
        from eca_mmdet.models.legacy import v1_multiclass_nms

        for count in (0, 4):
            found = v1_multiclass_nms(
                torch.zeros(count, 4), torch.zeros(count, 80), 0.05, 0.5, 100
            )
            assert [tuple(part.shape) for part in found] == [(0, 4), (0,), (0,)]
            assert found[2].dtype == torch.long


def paste_by_hand(values, box, shape, threshold):
    """Bilinear resize to the inclusive integer box, pixel by pixel."""
    mask = np.zeros(shape, bool)
    x1, y1, x2, y2 = map(int, box)
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    rows, columns = values.shape
    for y in range(height):
        for x in range(width):
            # OpenCV: pixel centres, edges repeated.
            sy = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            sx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            a, b = int(sy), int(sx)
            c, d = min(a + 1, rows - 1), min(b + 1, columns - 1)
            fy, fx = sy - a, sx - b
            value = (values[a, b] * (1 - fx) + values[a, d] * fx) * (1 - fy) + (
                values[c, b] * (1 - fx) + values[c, d] * fx
            ) * fy
            if 0 <= y1 + y < shape[0] and 0 <= x1 + x < shape[1]:
                mask[y1 + y, x1 + x] = value > threshold
    return mask


class TestMaskHead:
    @pytest.mark.parametrize(
        'box',
        [
            (3.7, 2.2, 20.9, 15.1),  # truncated: 3, 2, 20, 15: 18 x 14 pixels
            (0, 0, 39, 29),
            (5, 5, 5, 5),
            (5.9, 5.9, 5.1, 5.1),
            (30, 20, 45, 40),  # beyond the image
            (-4.5, -3.5, 10, 10),  # truncated towards 0
        ],
    )
    def test_paste(self, legacy, box):
        from eca_mmdet.models.legacy import paste

        values = np.random.default_rng(0).random((7, 7), dtype=np.float32)
        values[3, 3] = 0.9
        integers = np.array(box, np.float32).astype(np.int32)
        mask = np.zeros((30, 40), bool)
        paste(mask, values, integers, 0.5)
        expected = paste_by_hand(values, integers, (30, 40), 0.5)
        # Single pixels may fall on the other side of the threshold by rounding.
        assert (mask != expected).sum() <= 1
        assert expected.any()

    def test_a_tiny_mask_by_hand(self, legacy):
        from eca_mmdet.models.legacy import paste

        mask = np.zeros((3, 5), bool)
        values = np.array([[0.0, 1.0]], np.float32)  # left off, right on
        paste(mask, values, np.array([0, 1, 3, 1]), 0.5)
        # samples at -0.25 -> 0, 0.25, 0.75, 1.25 -> 1
        assert mask.astype(int).tolist() == [
            [0, 0, 0, 0, 0],
            [0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0],
        ]

    def test_the_threshold_itself_is_background(self, legacy):
        from eca_mmdet.models.legacy import paste

        mask = np.zeros((4, 4), bool)
        paste(mask, np.full((2, 2), 0.5, np.float32), np.array([0, 0, 3, 3]), 0.5)
        assert not mask.any()

    @pytest.mark.parametrize('rescale', [True, False])
    @pytest.mark.parametrize('class_agnostic', [True, False])
    def test_whole_head(self, legacy, rescale, class_agnostic):
        from mmengine.config import ConfigDict

        head = legacy.V1MaskHead(num_classes=3, class_agnostic=class_agnostic)
        logits = torch.randn(2, 1 if class_agnostic else 3, 7, 7)
        corners = boxes((16.2, 8.1, 80.5, 60.3), (0, 0, 31.9, 31.9))
        labels = torch.tensor([2, 0])
        found = head._predict_by_feat_single(
            logits,
            corners,
            labels,
            dict(scale_factor=(1.6, 1.6), ori_shape=(40, 60)),
            ConfigDict(mask_thr_binary=0.5),
            rescale=rescale,
        )
        shape = (40, 60) if rescale else (64, 96)
        assert found.shape == (2, *shape) and found.dtype == torch.bool
        for i in range(2):
            values = logits[i, 0 if class_agnostic else labels[i]].sigmoid().numpy()
            scale = np.float32(1.6) if rescale else np.float32(1)
            box = (corners[i].numpy() / scale).astype(np.int32)
            expected = paste_by_hand(values, box, shape, 0.5)
            assert (found[i].numpy() != expected).sum() <= 1
