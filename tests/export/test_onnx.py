"""`eca-mmdet export onnx`: files that do what mmdet does."""

import json
import logging
import warnings

import numpy as np
import pytest
import torch

import eca_mmdet
from eca_mmdet import cli
from eca_mmdet.evaluation.metric import CocoTableMetric
from eca_mmdet.export.writer import make_part, write_graph
from eca_mmdet.utils.errors import UserError
from tests.support import detectors, exporting
from tests.support.exporting import assert_same_objects, batch, run
from tests.tolerances import assert_near

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

KINDS = ('faster', 'mask', 'retinanet')
CLASSES = ('circle', 'square', 'triangle')


@pytest.fixture(scope='module')
def exported(mmdet_ready, shapes, tmp_path_factory):
    """For each kind, (config, checkpoint, detector, its file); made when asked for."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            cfg, model = exporting.random_detector(kind, shapes)
            for loader in ('val', 'test'):
                cfg[f'{loader}_dataloader'].dataset.pipeline[1].scale = (128, 96)
            paths = exporting.save(folder, cfg, model)
            out = folder / 'whole.onnx'
            assert cli.main(['export', 'onnx', *map(str, (*paths, out))]) == 0
            made[kind] = (*paths, model, out)
        return made[kind]

    return get


@pytest.mark.sweep
@pytest.mark.parametrize('kind', KINDS)
def test_objects_are_those_of_mmdet_at_any_size_and_batch(kind, exported, shapes):
    _, _, model, out = exported(kind)
    for sizes in ([(96, 96)], [(75, 131)], [(160, 64), (96, 101)], [(33, 40)] * 3):
        images, shape, samples = batch(model, shapes, sizes)
        found = run(out, images=images, sizes=shape)
        assert_same_objects(found, model, images, samples)


def test_export_from_python(mmdet_ready, shapes, tmp_path):
    """The config is the one in the checkpoint."""
    checkpoint = detectors.save(tmp_path / 'a.pth', 'faster', shapes)
    out = tmp_path / 'a.onnx'
    report = eca_mmdet.export_onnx(checkpoint, out, (96, 128))
    assert report.paths == (out,) and report.metadata['size'] == [96, 128]
    assert report.metadata['config'] is None
    assert report.checks[-1].passes and not report.checks[-1].is_empty
    assert eca_mmdet.OnnxDetector(out).classes == detectors.CLASSES
    with pytest.raises(UserError) as raised:
        eca_mmdet.export_onnx(checkpoint, out)
    assert raised.value.code == 'output-exists'


@pytest.mark.openmmlab
def test_the_file_says_what_it_takes_and_gives(exported):
    import onnx

    config, checkpoint, _, out = exported('mask')
    file = onnx.load(str(out))
    sides = {
        one.name: [
            side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim
        ]
        for one in (*file.graph.input, *file.graph.output)
    }
    assert sides == {
        'images': ['batch', 3, 'height', 'width'],
        'sizes': ['batch', 2],
        'boxes': ['batch', 30, 4],
        'scores': ['batch', 30],
        'labels': ['batch', 30],
        'masks': ['batch', 30, 28, 28],
    }
    (entry,) = file.metadata_props
    assert entry.key == 'eca_mmdet'
    found = json.loads(entry.value)
    assert len(found.pop('checkpoint_sha256')) == 64
    assert found == {
        'format': 1,
        'eca_mmdet': eca_mmdet.__version__,
        'part': 'all',
        'detector': 'MaskRCNN',
        'classes': ['circle', 'square', 'triangle'],
        'mean': pytest.approx([123.675, 116.28, 103.53]),
        'std': pytest.approx([58.395, 57.12, 57.375]),
        'to_rgb': True,
        'scale': [128, 96],
        'keep_ratio': True,
        'pad_divisor': 32,
        'pad_value': 0,
        'size': None,
        'mask_threshold': 0.5,
        'score_threshold': 0.05,
        'nms_iou': 0.5,
        'max_per_image': 30,
        'config': config.name,
        'checkpoint': checkpoint.name,
    }


def test_nothing_is_printed_but_the_command_s_own(exported, command, tmp_path, caplog):
    config, checkpoint, *_ = exported('mask')
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter('always')
        code, out, err = command(
            *('export', 'onnx', config, checkpoint, tmp_path / 'a.onnx')
        )
    told = [one for one in noted if 'onnx' in str(one.message).lower()]
    assert (code, told) == (0, []) and err.startswith('Next:\n')
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    lines = out.split('\n')
    assert lines[0].startswith('MaskRCNN, ')
    assert lines[-2] == f'Written: {tmp_path / "a.onnx"}.'
    rows = [line.split() for line in lines if line[:2] in ('1 ', '2 ')]
    assert [row[:4] for row in rows] == [
        *(['1', 'of', '96', 'x'], ['1', 'of', '64', 'x'], ['2', 'of', '96', 'x'])
    ]
    assert all(int(row[5]) > 0 and row[6] == '0' for row in rows)


def write_annotations(path, data, predictions):
    """Annotate every third predicted object, with a box that overlaps it by 0.57-0.97.

    No overlap is nearer to a threshold of the AP than 0.02.
    """
    content = json.loads((data / 'annotations' / 'val.json').read_text())
    places = {one['name']: one['id'] for one in content['categories']}
    content['annotations'] = []
    for index, one in enumerate(predictions):
        objects = one.pred_instances[::3]
        for number, (box, label) in enumerate(
            zip(objects.bboxes.tolist(), objects.labels.tolist(), strict=True)
        ):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            width *= (0.97, 0.87, 0.77, 0.67, 0.57)[number % 5]
            content['annotations'].append(
                {
                    'id': len(content['annotations']) + 1,
                    'image_id': content['images'][index]['id'],
                    'category_id': places[CLASSES[label]],
                    'bbox': [x, y, width, height],
                    'area': width * height,
                    'iscrowd': 0,
                }
            )
    path.write_text(json.dumps(content))
    return path


def test_ap_is_that_of_mmdet(exported, shapes, tmp_path):
    _, _, model, out = exported('mask')
    images, shape, samples = batch(model, shapes, [(96, 96)] * 4)
    found = run(out, images=images, sizes=shape)
    with torch.no_grad():
        wanted = model.predict(images, samples, rescale=True)
    annotations = write_annotations(tmp_path / 'val.json', shapes, wanted)
    tables = []
    for own in (False, True):
        metric = CocoTableMetric(str(annotations), 'bbox')
        metric.dataset_meta = {'classes': CLASSES}
        for index in range(4):
            objects = wanted[index].pred_instances
            values = {name: getattr(objects, name) for name in ('scores', 'labels')}
            values['bboxes'] = objects.bboxes
            if own:
                real = found['labels'][index] >= 0
                values = {'bboxes': found['boxes'][index][real]}
                for name in ('scores', 'labels'):
                    values[name] = found[name][index][real]
            metric.process({}, [dict(img_id=index + 1, pred_instances=values)])
        tables.append(metric.evaluate(4))
    assert 0.1 < tables[0]['coco/bbox_mAP'] < 0.9
    for name, value in tables[0].items():
        assert tables[1][name] == pytest.approx(value, abs=0.001), name  # 0.1 of 100


@pytest.mark.sweep
@pytest.mark.parametrize('kind', ['mask', 'retinanet'])
def test_parts_together_are_the_whole(kind, exported, command, shapes, tmp_path):
    config, checkpoint, model, whole = exported(kind)
    for part in ('backbone', 'heads'):
        words = (config, checkpoint, tmp_path / f'{part}.onnx', '--part', part)
        assert command('export', 'onnx', *words)[0] == 0
    for sizes in ([(96, 128)], [(64, 70), (90, 40)]):
        images, shape, samples = batch(model, shapes, sizes)
        features = run(tmp_path / 'backbone.onnx', images=images)
        with torch.no_grad():
            for (name, one), other in zip(
                features.items(), model.backbone(images), strict=True
            ):
                assert_near(one, other, 1e-5, name)
        assert list(features) == [f'feature_{index}' for index in range(4)]
        found = run(tmp_path / 'heads.onnx', **features, sizes=shape)
        assert found.keys() == run(whole, images=images, sizes=shape).keys()
        assert_same_objects(found, model, images, samples)


def test_one_size(exported, command, shapes, tmp_path):
    config, checkpoint, model, _ = exported('mask')
    out = tmp_path / 'fixed.onnx'
    code, *_ = command(
        *('export', 'onnx', config, checkpoint, out, '--size', '96', '128')
    )
    assert code == 0
    for sizes in ([(96, 128)], [(80, 101), (96, 64)]):
        images, shape, samples = batch(model, shapes, sizes)
        images = torch.nn.functional.pad(images, (0, 128 - images.shape[3]))
        found = run(out, images=images, sizes=shape)
        assert_same_objects(found, model, images, samples)
    with pytest.raises(Exception, match='[Ii]nvalid dimensions'):
        run(out, images=np.zeros((1, 3, 64, 64), np.float32), sizes=shape[:1])


@pytest.mark.parametrize('kind', ['mask', 'retinanet'])
def test_images_without_objects(kind, mmdet_ready, shapes, command, tmp_path):
    """The file gives zeros; the check compares without the threshold, and says so."""
    cfg, model = exporting.random_detector(kind, shapes)
    head = model.bbox_head if kind == 'retinanet' else model.roi_head.bbox_head
    with torch.no_grad():
        if kind == 'retinanet':
            head.retina_cls.bias.fill_(-9)
        else:
            head.fc_cls.bias[-1] = 20  # the background
    paths = exporting.save(tmp_path, cfg, model)
    code, out, _ = command('export', 'onnx', *paths, tmp_path / 'a.onnx')
    assert code == 0 and 'No object of both has a score above 0.05' in out
    last = [line.split() for line in out.split('\n') if ' of ' in line][-1]
    assert int(last[5]) > 0  # compared at last
    images, shape, _ = batch(model, shapes, [(96, 96), (64, 80)])
    found = run(tmp_path / 'a.onnx', images=images, sizes=shape)
    assert (found.pop('labels') == -1).all()
    for name, values in found.items():
        assert not values.any(), name


def write(model, path, most):
    """Write the whole detector, for any size."""
    metadata = {'eca_mmdet': '0', 'max_per_image': most}
    write_graph(path, make_part(model, 'all'), metadata)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ('kind', 'classes'), [('mask', 1), ('retinanet', 1), ('faster', 1203)]
)
def test_any_number_of_classes(kind, classes, mmdet_ready, shapes, tmp_path):
    from mmdet.registry import MODELS

    cfg, _ = exporting.random_detector(kind, shapes)
    roi = cfg.model.get('roi_head', {})
    heads = [cfg.model.get('bbox_head'), roi.get('bbox_head'), roi.get('mask_head')]
    for head in filter(None, heads):
        head.num_classes = classes
    test = cfg.model.test_cfg
    if kind != 'retinanet':
        test.rpn.max_per_img = 20
        test = test.rcnn
    test.update(max_per_img=8, score_thr=1e-4)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    model.train(False)
    if kind == 'retinanet':
        torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.02)
    else:
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.1)
    write(model, tmp_path / 'a.onnx', 8)
    images, shape, samples = batch(model, shapes, [(96, 96)])
    found = run(tmp_path / 'a.onnx', images=images, sizes=shape)
    assert_same_objects(found, model, images, samples, least=8)


@pytest.mark.sweep
@pytest.mark.parametrize('agnostic', [False, True])
def test_fewer_regions_than_places(agnostic, mmdet_ready, shapes, tmp_path):
    """A place without a region gives no object; boxes of all classes in one, too."""
    from mmdet.registry import MODELS

    cfg, _ = exporting.random_detector('faster', shapes)
    cfg.model.roi_head.bbox_head.reg_class_agnostic = agnostic
    cfg.model.test_cfg.rpn.max_per_img = 250
    cfg.model.test_cfg.rpn.nms.iou_threshold = 0.3  # which leaves less
    cfg.model.test_cfg.rcnn.update(max_per_img=600, score_thr=0.01)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    model.train(False)
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_reg.weight, std=0.05)
    write(model, tmp_path / 'a.onnx', 600)
    images, shape, samples = batch(model, shapes, [(40, 33), (64, 64)])
    with torch.no_grad():
        regions = model.rpn_head.predict(model.extract_feat(images), samples)
    assert all(0 < len(one) < 250 for one in regions)
    found = run(tmp_path / 'a.onnx', images=images, sizes=shape)
    assert_same_objects(found, model, images, samples, least=50)
