"""``eca-mmdet predict``: its pictures, its COCO file, its refusals."""

import json
import math
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

import eca_mmdet
from eca_mmdet.inference import predict as media
from eca_mmdet.inference.drawing import draw_heat, draw_objects
from eca_mmdet.inference.prediction import Detector, Prediction
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.images import frames_of, read_rgb
from tests.conftest import REPOSITORY
from tests.support import detectors


@pytest.fixture(scope='module')
def checkpoint(mmdet_ready, shapes, tmp_path_factory):
    return detectors.save(tmp_path_factory.mktemp('p') / 'mask.pth', 'mask', shapes)


@pytest.fixture(scope='module')
def detector(checkpoint):
    return eca_mmdet.ECADetector.from_checkpoint(checkpoint, device='cpu')


@pytest.fixture(scope='module')
def picture(shapes):
    path = sorted((shapes / 'val').iterdir())[0]
    return cv2.imread(str(path))[:80, :, ::-1]  # wider than high


@pytest.fixture
def folder(tmp_path, picture):
    """Images, hidden ones, broken ones and other files."""
    root = tmp_path / 'images'
    (root / 'sub dir').mkdir(parents=True)
    (root / '.hidden').mkdir()
    bgr = np.ascontiguousarray(picture[..., ::-1])
    for name in ('b.png', 'a.bmp', 'a.bmp.png', 'sub dir/Käfer 龍.jpg', '.no.png'):
        assert cv2.imwrite(str(root / name), bgr)
    cv2.imwrite(str(root / '.hidden' / 'x.png'), bgr)
    (root / 'empty.png').touch()
    whole = (root / 'b.png').read_bytes()
    (root / 'cut.png').write_bytes(whole[: len(whole) // 2])
    (root / 'notes.txt').write_text('none')
    return root


def test_command_predicts_a_folder(command, checkpoint, detector, folder, tmp_path):
    out = tmp_path / 'out'
    arguments = ('--score-thr', 0.1, '--cam', '--device', 'cpu', '--out', out)
    code, told, err = command('predict', checkpoint, folder, *arguments)
    assert code == 1
    assert 'empty.png is not an image' in err and 'it is empty' in err
    assert 'cut.png is not an image' in err
    names = ['a.bmp', 'a.bmp.png', 'b.png', 'sub dir/Käfer 龍.jpg']
    lines = told.splitlines()
    assert [line.partition(':')[0] for line in lines[:4]] == names
    assert lines.pop(4) == 'passed over, since not images: 1 .txt'
    assert lines[4].startswith('4 images, 2 could not be read: ')
    pictures = ['a.bmp.png', 'a.bmp-2.png', 'b.png', 'sub dir/Käfer 龍.jpg']
    for kind in ('pictures', 'cam'):
        found = [one for one in (out / kind).rglob('*') if one.is_file()]
        assert {str(one.relative_to(out / kind)) for one in found} == set(pictures)
    content = json.loads((out / 'predictions.json').read_text())
    assert [one['file_name'] for one in content['images']] == names
    assert [one['picture'] for one in content['images']] == [
        f'pictures/{one}' for one in pictures
    ]
    assert content['categories'] == [
        {'id': 1, 'name': 'big cat'},
        {'id': 2, 'name': 'Käfer'},
        {'id': 3, 'name': '龍'},
    ]
    expected = detector.predict(folder / 'b.png').above(0.1)
    entries = [one for one in content['annotations'] if one['image_id'] == 3]
    keys = ('image_id', 'category_id', 'bbox', 'score', 'segmentation')
    kept = [{key: one[key] for key in keys} for one in entries]
    assert kept == expected.to_coco(3) and len(kept) > 5
    assert [one['area'] for one in entries] == expected.masks.sum((1, 2)).tolist()
    drawn = cv2.imread(str(out / 'pictures' / 'b.png'))[..., ::-1]
    np.testing.assert_array_equal(drawn, expected.plot(0.1))
    COCO(out / 'predictions.json').loadRes(content['annotations'])


def test_command_predicts_a_video(command, checkpoint, detector, shapes, tmp_path):
    images = [cv2.imread(str(one)) for one in sorted((shapes / 'val').iterdir())]
    writer = cv2.VideoWriter(
        str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 12, (96, 96)
    )
    for index in range(7):
        writer.write(images[index % 4])
    writer.release()
    arguments = ('--every', 3, '--cam', '--device', 'cpu', '--out', tmp_path / 'out')
    code, told, err = command('predict', checkpoint, tmp_path / 'clip.avi', *arguments)
    assert (code, err) == (0, '') and told.startswith('3 frames: ')
    for kind in ('pictures', 'cam'):
        (path,) = (tmp_path / 'out' / kind).iterdir()
        written = cv2.VideoCapture(str(path))
        assert written.get(cv2.CAP_PROP_FPS) == 4  # as long as the original
        assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    names = [(one['file_name'], one['seconds']) for one in content['images']]
    assert names == [('clip.avi#0', 0), ('clip.avi#3', 0.25), ('clip.avi#6', 0.5)]
    frames = dict(media.Video(tmp_path / 'clip.avi'))
    assert list(frames) == list(range(7))
    assert np.abs(frames[5][..., ::-1].astype(int) - images[1]).mean() < 8
    expected = detector.predict(frames[3]).above(0.3).to_coco(2)
    entries = [one for one in content['annotations'] if one['image_id'] == 2]
    assert [one['bbox'] for one in entries] == [one['bbox'] for one in expected]


def test_command_predicts_several_sources(
    command, checkpoint, folder, tmp_path, monkeypatch
):
    """Patterns, folders and files in one run; names keep apart, nothing twice."""
    other = tmp_path / 'other'
    other.mkdir()
    for name in ('b.png', 'c[1].png', 'c1.png'):
        shutil.copy(folder / 'b.png', other / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    sources = (
        'images/b.p*',
        'images/b.png',
        str(other),
        'other/c[1].png',
        '~/o*/b.png',
    )
    arguments = ('--score-thr', 0.9, '--device', 'cpu', '--out', 'out')
    code, told, err = command('predict', checkpoint, *sources, *arguments)
    assert (code, err) == (0, '') and '4 images: ' in told
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    names = ['images/b.png', 'other/b.png', 'other/c1.png', 'other/c[1].png']
    assert [entry['file_name'] for entry in content['images']] == names
    assert content['info']['source'] == list(sources)
    assert (tmp_path / 'out' / 'pictures' / 'other' / 'c[1].png').is_file()
    found = media.open_source('o*r/**/c?.png')
    assert (found.folder, found.names) == (other.relative_to(tmp_path), ['c1.png'])
    assert media.open_source('other/c[1].png').names == [
        'c[1].png'
    ]  # a file's own name


@pytest.mark.parametrize(
    ('classes', 'most'), [(('龍', 'Käfer'), None), (('2', '1'), 3), (None, 3)]
)
def test_chosen_objects(classes, most, command, checkpoint, detector, folder, tmp_path):
    out, path = tmp_path / 'out', folder / 'b.png'
    options = ['--score-thr', 0.1, '--line-width', 3, '--no-labels', '--save-crop']
    options += ['--classes', *classes] if classes else []
    options += ['--max-det', most] if most else []
    arguments = ('--cam', '--device', 'cpu', '--out', out, *options)
    code, told, err = command('predict', checkpoint, path, *arguments)
    assert (code, err) == (0, '') and f'{out}/crops' in told
    content = json.loads((out / 'predictions.json').read_text())
    whole = detector.predict(path)
    expected = [
        entry
        for entry, name in zip(whole.to_coco(1), whole.names, strict=True)
        if entry['score'] >= 0.1 and (not classes or name != 'big cat')
    ][:most]
    found = content['annotations']
    assert len(found) == (most or len(found)) > 2
    assert [entry['bbox'] for entry in found] == [one['bbox'] for one in expected]
    assert [entry['category_id'] for entry in found] == [
        one['category_id'] for one in expected
    ]
    assert content['info'].get('classes') == (list(classes) if classes else None)
    assert content['info'].get('max_det') == most
    for number, entry in enumerate(found, 1):
        x, y, width, height = entry['bbox']
        rows = slice(math.floor(y), math.ceil(y + height))
        columns = slice(math.floor(x), math.ceil(x + width))
        crop = cv2.imread(str(out / entry['crop']))[..., ::-1]
        np.testing.assert_array_equal(crop, whole.image[rows, columns])
        name = detector.classes[entry['category_id'] - 1]
        assert entry['crop'] == f'crops/{name}/b-{number}.png'
    boxes = np.array([entry['bbox'] for entry in found])
    boxes[:, 2:] += boxes[:, :2]
    labels = [entry['category_id'] - 1 for entry in found]
    masks = np.array([mask.decode(entry['segmentation']) > 0 for entry in found])
    drawn = draw_objects(whole.image, boxes, labels, [''] * len(found), masks, 3)
    picture = cv2.imread(str(out / 'pictures' / 'b.png'))[..., ::-1]
    np.testing.assert_array_equal(picture, drawn)
    heat = cv2.imread(str(out / 'cam' / 'b.png'))[..., ::-1]
    everything = draw_heat(whole.image, detector.cam(path, 0.1))
    assert (heat != everything).any()


def test_crops_of_any_box_and_name(tmp_path):
    class Found(Detector):
        classes = ('../../up', 'a/b', 'x' * 99)

        def _predict_one(self, image):
            boxes = [[-9, -9, 3, 4], [90, 0, 99, 9], [5.5, 6.5, 99, 99], [8, 8, 8, 8]]
            return Prediction(
                np.array(boxes, np.float32),
                np.array([0.9, 0.8, 0.7, 0.6], np.float32),
                np.array([0, 1, 1, 2]),
                classes=self.classes,
                image=read_rgb(image),
            )

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    folder = tmp_path / 'in'
    (folder / 'sub').mkdir(parents=True)
    for name in ('a.png', 'a.bmp', 'sub/a.b.png'):
        cv2.imwrite(str(folder / name), pixels[..., ::-1])
    out = tmp_path / 'out'
    source = media.open_source(str(folder))
    result = media.predict_files(Found(), source, str(out), crops=True)
    assert result.objects == 12
    content = json.loads((out / 'predictions.json').read_text())
    names = [entry.get('crop') for entry in content['annotations']]
    assert names[:4] == [
        'crops/______up/a-1.png',
        None,  # not in the image
        'crops/a_b/a-3.png',
        f'crops/{"x" * 60}/a-4.png',
    ]
    assert names[4] == 'crops/______up/a-1-2.png'  # of a.png, after a.bmp
    assert names[8] == 'crops/______up/sub/a.b-1.png'
    written = {str(one.relative_to(out)) for one in out.rglob('crops/**/*.png')}
    assert written == {name for name in names if name} and len(written) == 9
    expected = [pixels[:4, :3], None, pixels[6:, 5:], pixels[8:9, 8:9]] * 3
    for name, crop in zip(names, expected, strict=True):
        if name:
            found = cv2.imread(str(out / name))[..., ::-1]
            np.testing.assert_array_equal(found, crop)


def test_force_replaces_results_of_predict_alone(command, checkpoint, folder, tmp_path):
    """What is no result of predict, or is to be predicted, is never removed."""
    out, image = tmp_path / 'out', folder / 'b.png'

    def predict(source, *options):
        options = ('--score-thr', 0.9, '--device', 'cpu', '--out', *options)
        code, told, err = command('predict', checkpoint, source, *options)
        return code, told.splitlines()[:1], err

    assert predict(image, out, '--force', '--cam')[0] == 0  # a new folder
    (out / '.my_predictions.json').touch()
    assert predict(folder / 'a.bmp', out, '--force') == (
        0,
        [f'{out}: replacing the results of an earlier call'],
        '',
    )
    names = {str(one.relative_to(out)) for one in out.rglob('*')}
    assert names == {
        '.my_predictions.json',
        'pictures',
        'pictures/a.bmp.png',
        'predictions.json',
    }
    code, _, err = predict(image, out)
    assert code == 2 and 'add --force' in err and '[output-exists]' in err
    before = set(tmp_path.rglob('*'))
    for source in (out / 'pictures' / 'a.bmp.png', out, tmp_path):
        code, _, err = predict(source, out, '--force')
        assert code == 2 and '[output-exists]' in err
    assert predict(folder / 'empty.png', out, '--force')[0] == 2
    (out / 'notes.txt').touch()
    assert predict(image, out, '--force')[0] == 2
    own = tmp_path / 'own' / 'pictures'
    own.mkdir(parents=True)
    shutil.copy(image, own)
    for other in (own.parent, folder, image):
        assert predict(image, other, '--force')[0] == 2
    (out / 'notes.txt').unlink()
    assert set(tmp_path.rglob('*')) == before | {own.parent, own, own / 'b.png'}
    (own.parent / '.predictions.json.x.partial').touch()  # of a call that was killed
    assert predict(image, own.parent, '--force')[0] == 0
    assert {one.name for one in own.parent.iterdir()} == {
        'pictures',
        'predictions.json',
    }


def test_many_images_have_a_bar_or_few_lines(
    command, checkpoint, folder, tmp_path, monkeypatch
):
    for name in ('empty.png', 'cut.png', 'notes.txt'):
        (folder / name).unlink()
    arguments = ('predict', checkpoint, folder, '--device', 'cpu', '--out')
    monkeypatch.setattr(media, '_LINES', 2)  # four images
    code, told, err = command(*arguments, tmp_path / 'a')
    assert (code, err) == (0, '')
    assert told.startswith('4 images: ') and f'  {tmp_path}/a/pictures\n' in told
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setattr('eca_mmdet.utils.text.PATIENCE', 0)
    monkeypatch.setenv('TERM', 'xterm')
    code, told, err = command(*arguments, tmp_path / 'b')
    assert code == 0 and told.startswith('4 images: ') and 'images ' in err


FORMATS = {  # name: Pillow's format
    'a.jfif': 'JPEG', 'b.JPE': 'JPEG', 'c.jpg_large': 'JPEG', 'd': 'PNG', 'e.jp2':
    'JPEG2000', 'f.WebP': 'WEBP', 'g.TIF': 'TIFF', 'h': 'TIFF', 'i.1': 'GIF',
    'j.gif': 'GIF', 'k': 'BMP', 'l.dib': 'BMP', 'm.ppm': 'PPM', 'n.png~': 'PNG',
}  # fmt: skip


def test_images_are_known_by_name_or_content(tmp_path, picture, detector):
    image = Image.fromarray(np.ascontiguousarray(picture))
    for name, kind in FORMATS.items():
        image.save(tmp_path / name, kind)
    image.save(tmp_path / 'x.dng', 'TIFF')  # of a camera: holds more than a preview
    image.save(tmp_path / 'x.ico', 'ICO')
    for name in ('BMW', 'x.txt', 'y.txt', 'z.md'):
        (tmp_path / name).write_text('BMW GIF RIFF')
    found = media.open_source(str(tmp_path))
    assert found.names == sorted(FORMATS)
    others = {'.dng': 1, '.ico': 1, '.txt': 2, '.md': 1, 'bmw': 1}
    assert {end.lower(): n for end, n in found.passed_over.items()} == others
    for name, kind in FORMATS.items():
        read = detector.read(str(tmp_path / name))['img'][..., ::-1].astype(int)
        limit = {'JPEG': 12, 'WEBP': 12, 'GIF': 16, 'JPEG2000': 12}.get(kind, 0)
        assert np.abs(read - picture).mean() <= limit, name


def test_formats_that_opencv_does_not_know(tmp_path, picture, detector, monkeypatch):
    image = Image.fromarray(np.ascontiguousarray(picture))
    for name in ('a.tga', 'a.pcx', 'a.gif'):
        image.save(tmp_path / name)
    old = {'haveImageReader': False, 'imdecode': None}
    for name in ('a.tga', 'a.pcx', 'a.gif'):
        if name == 'a.gif':  # an OpenCV without GIF
            for function, value in old.items():
                monkeypatch.setattr(cv2, function, lambda *_, value=value: value)
        expected = np.asarray(Image.open(tmp_path / name).convert('RGB'))
        np.testing.assert_array_equal(read_rgb(str(tmp_path / name)), expected)
        loaded = detector.read(str(tmp_path / name))['img']
        np.testing.assert_array_equal(loaded[..., ::-1], expected)


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png', '.tif'])
def test_first_image_of_several(suffix, command, checkpoint, picture, tmp_path):
    images = [
        Image.fromarray(np.ascontiguousarray(picture[::step])) for step in (1, -1)
    ]
    path = tmp_path / f'a{suffix}'
    images[0].save(path, save_all=True, append_images=images[1:], lossless=True)
    arguments = ('--score-thr', 1, '--device', 'cpu', '--out', tmp_path / 'out')
    code, told, err = command('predict', checkpoint, path, *arguments)
    assert (code, err) == (0, '')
    assert told.startswith(f'a{suffix} (first of 2 frames): no object')
    (drawn,) = (tmp_path / 'out' / 'pictures').iterdir()
    difference = np.abs(cv2.imread(str(drawn))[..., ::-1].astype(int) - picture)
    assert difference.mean() < 16  # GIF has 256 colours
    assert frames_of(tmp_path / 'nowhere') == frames_of(checkpoint) == 1


def test_interrupted_command_keeps_what_is_done(
    command, checkpoint, folder, tmp_path, monkeypatch
):
    original = eca_mmdet.ECADetector.predict
    calls = []

    def predict(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(eca_mmdet.ECADetector, 'predict', predict)
    out = tmp_path / 'out'
    code, told, _ = command(
        'predict', checkpoint, folder, '--device', 'cpu', '--out', out
    )
    assert code == 130 and '2 images' in told
    content = json.loads((out / 'predictions.json').read_text())
    assert len(content['images']) == len(list((out / 'pictures').iterdir())) == 2


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('nowhere.png', 'does not exist'),
        ('nowhere.mp4', 'does not exist'),
        ('images/.hidden/none', 'does not exist'),
        ('images/empty.png', 'it is empty'),
        ('images/notes.txt', 'is not an image'),
        ('/dev/null', 'is no regular file'),
        ('nothing', 'has no image in it'),
        ('text.mp4', 'not a video that OpenCV reads'),
        ('images/*.tif', 'matches no image'),
        ('images/*.txt', 'matches no image'),
    ],
)
def test_what_cannot_be_predicted(
    source, message, command, checkpoint, folder, tmp_path
):
    (tmp_path / 'nothing').mkdir()
    (tmp_path / 'text.mp4').write_text('no frames')
    out = tmp_path / 'out'
    code, _, err = command('predict', checkpoint, tmp_path / source, '--out', out)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not out.exists()


def test_bad_checkpoints_and_options(command, checkpoint, folder, tmp_path):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    image, out, clip = folder / 'b.png', tmp_path / 'out', tmp_path / 'a.avi'
    clip.touch()
    clip.with_name('b.avi').touch()
    for arguments, message in (
        ((cut, image), 'cut.pth'),
        ((tmp_path / 'no.pth', image), 'does not exist'),
        ((image, image), 'an image or a document, not weights'),
        ((checkpoint, image, '--device', 'warp'), "device 'warp' cannot be used"),
        ((checkpoint, image, '--every', 2), '--every goes with a video'),
        ((checkpoint, image, '--config', 'nosuch'), 'nosuch'),
        ((checkpoint, image, '--classes', 'big dog'), 'Did you mean big cat?'),
        ((checkpoint, image, '--classes', '龍', '3'), "no class '3' in the detector"),
        ((checkpoint, ''), 'a file without a name does not exist'),
        ((checkpoint, image, clip), 'a video is predicted by itself'),
        ((checkpoint, clip, clip.with_name('b.avi')), 'a video is predicted by itself'),
        ((checkpoint, image, tmp_path / 'no.png'), 'no.png does not exist'),
        (
            (checkpoint, 'https://host.invalid/a.jpg'),
            'https://host.invalid/a.jpg is an',
        ),
        ((checkpoint, 'http://host.invalid/a.mp4'), 'Download it first'),
        ((checkpoint, 'rtsp://user@host.invalid:1/s'), 'record a stream'),
        ((checkpoint, 's3://bucket/a.png', image), 's3://bucket/a.png is an address'),
        ((checkpoint, 'file:///a.png'), 'Name the file itself'),
        ((checkpoint, f'data:image/png;base64,{"A" * 5000}'), 'is an address'),
        ((checkpoint, 0), '0 does not exist'),
        ((checkpoint, '-'), '- does not exist'),
    ):
        code, _, err = command('predict', *arguments, '--out', out)
        assert code == 2 and message in err and len(err.splitlines()) == 1
        assert not out.exists()
    out.mkdir()
    code, _, err = command('predict', checkpoint, image, '--out', out)
    assert code == 2 and 'overwrites nothing' in err


def test_names_of_pictures_are_never_the_same():
    names = ['a.PNG', 'a.gif', 'a.gif.png', 'a.gif-2.png', 'b/a.gif', 'x.JPG']
    taken = set()
    chosen = [media.picture_name(one, taken) for one in names]
    assert chosen == [
        'a.PNG', 'a.gif.png', 'a.gif-2.png', 'a.gif-2-2.png', 'b/a.gif.png', 'x.JPG',
    ]  # fmt: skip


def test_video_of_odd_sides_loses_nothing(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    frame = frame.repeat(9, axis=0).repeat(9, axis=1)  # 45 x 63
    video = media.VideoFile(tmp_path / 'v.mp4', 10)
    video.add(frame)
    video.close()
    ((_, written),) = media.Video(video.path)
    assert written.shape == (46, 64, 3)
    assert np.abs(written[:45, :63].astype(int) - frame).mean() < 25


def test_video_that_cannot_be_written(tmp_path):
    video = media.VideoFile(tmp_path / 'nowhere' / 'v.mp4', 10)
    with pytest.raises(UserError) as error:
        video.add(np.zeros((32, 32, 3), np.uint8))
    assert error.value.code == 'file-not-written'
    video.close()


def test_examples_of_the_documentation_run(
    checkpoint, picture, shapes, tmp_path, monkeypatch
):
    text = (REPOSITORY / 'docs' / 'predict.md').read_text()
    usage, drawing = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    train, val = tmp_path / 'demo' / 'train', tmp_path / 'demo' / 'data' / 'val'
    train.mkdir(parents=True)
    val.mkdir(parents=True)
    (train / 'iter_520.pth').symlink_to(checkpoint)
    bgr = np.ascontiguousarray(picture[..., ::-1])
    cv2.imwrite(str(tmp_path / 'street.jpg'), bgr)
    for number in (0, 1, 4, 8):
        cv2.imwrite(str(val / f'{number:05}.png'), bgr)
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(usage, known)
    exec(drawing, known)
    assert len(known['found'].above(0.5)) <= len(known['found'])
    assert (tmp_path / 'drawn.png').stat().st_size > 1000
    assert cv2.imread('predict.jpg').shape == (480, 960, 3)


def test_predict_imports_only_what_mmdet_needs(
    checkpoint, picture, tmp_path, supplied_operators
):
    """What is imported later, torchvision's gradients too, finds the operators."""
    cv2.imwrite(str(tmp_path / 'a.png'), np.ascontiguousarray(picture))
    code = f"""if True:
        import sys
        from eca_mmdet.cli import main
        assert main(['predict', {str(checkpoint)!r}, 'a.png', '--device', 'cpu']) == 0
        slow = ['hotcoco', 'onnx', 'onnxruntime', 'pandas', 'sklearn', 'supervision']
        slow += ['timm', 'torch._dynamo', 'torchvision', 'transformers', 'triton']
        print('imported:', [name for name in slow if name in sys.modules])
        import torch
        from eca_mmdet.mmcv_ops.library import operators
        box, image = torch.tensor([[0, 1, 1, 5, 5.0]]), torch.ones(1, 1, 8, 8)
        meta = image.to('meta')
        print(operators(meta).roi_align(meta, box.to('meta'), 1, 2, 3, 0, True).shape)
        import torchvision
        image.requires_grad_()
        torchvision.ops.roi_align(image, box, 2).sum().backward()
        print('gradient:', round(image.grad.sum().item(), 4))
    """
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, '')
    shape = 'torch.Size([1, 1, 2, 3])'
    assert run.stdout.splitlines()[-3:] == ['imported: []', shape, 'gradient: 4.0']
