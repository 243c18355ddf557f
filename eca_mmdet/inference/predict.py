"""Prediction of images or a video into a folder: pictures and a COCO file."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from eca_mmdet.inference.drawing import draw_heat
from eca_mmdet.inference.media import Images, Video, VideoFile, picture_name
from eca_mmdet.inference.prediction import Picture, Prediction
from eca_mmdet.utils.errors import UserError, require_package
from eca_mmdet.utils.images import frames_of
from eca_mmdet.utils.io import make_run_folder, whole_file
from eca_mmdet.utils.text import first, plural, printable, progress

logger = logging.getLogger(__name__)

RECORD = 'predictions.json'


@dataclass
class PredictedFiles:
    """Result of :func:`predict_files`.

    Attributes:
        kinds: subfolders with pictures or videos, 'pictures' and perhaps 'cam'.
        images: number of predicted images or frames.
        failed: number of images that could not be read.
        interrupted: Ctrl-C ended it early; what was done is written.
    """

    out: Path
    kinds: list[str] = field(default_factory=list)
    images: int = 0
    objects: int = 0
    failed: int = 0
    seconds: float = 0
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


def require_packages(masks: bool, video: bool) -> None:
    """Raise MissingPackageError if drawing or writing lacks a package."""
    packages = {'cv2': 'opencv-python', 'PIL': 'pillow', 'matplotlib': 'matplotlib'}
    packages |= {'pycocotools': 'pycocotools'} if masks else {}
    packages |= {'rich': 'rich'} if video else {}
    for name in packages:
        require_package(name, 'drawing predictions', ' '.join(packages.values()))


def predict_files(
    detector: Any,
    source: Images | Video,
    out: str | None = None,
    score: float = 0.3,
    cam: bool = False,
    info: dict[str, Any] | None = None,
) -> PredictedFiles:
    """Predict images or a video, and write pictures and ``predictions.json``.

    ``detector`` is an ``ECADetector`` or ``OnnxDetector``; ``cam`` also draws class
    activation maps, which need the former. ``out`` is a folder to create, None for
    ``runs/predict-DATE-TIME``; ``info`` is stored in ``predictions.json``.
    """
    if isinstance(source, Images) and len(source.names) == 1:
        detector.read(str(source.folder / source.names[0]))  # before creating a folder
    start = time.monotonic()
    result = PredictedFiles(make_run_folder(out, 'predict'))
    draw = functools.partial(_draw, detector, score=score, cam=cam)
    with whole_file(result.out / RECORD) as partial, partial.open('w') as stream:
        record = _CocoWriter(stream, detector.classes, info or {})
        try:
            if isinstance(source, Video):
                _predict_video(source, draw, record, result)
            else:
                _predict_images(source, draw, record, result)
        except KeyboardInterrupt:
            result.interrupted = True
        record.finish()
    kinds = ('pictures', 'cam')
    result.kinds = [kind for kind in kinds if (result.out / kind).is_dir()]
    result.images, result.objects = len(record.images), record.objects
    result.seconds = time.monotonic() - start
    return result


class _CocoWriter:
    """Write predictions as a COCO annotation file whose entries are COCO results too.

    Only one line per image is kept in memory. The category of label 0 has id 1.
    """

    def __init__(
        self, stream: TextIO, classes: Sequence[str], info: dict[str, Any]
    ) -> None:
        self._stream, self.objects = stream, 0
        self.images: list[dict[str, Any]] = []
        categories = [{'id': id_, 'name': name} for id_, name in enumerate(classes, 1)]
        stream.write(f'{{"info": {json.dumps(info)},\n')
        stream.write(f'"categories": {json.dumps(categories)},\n"annotations": [')

    def add(self, prediction: Prediction, file_name: str, **more: Any) -> None:
        """Write the objects of one image; ``more`` are further keys of its entry."""
        image_id = len(self.images) + 1
        height, width = prediction.image.shape[:2]
        size = {'width': width, 'height': height}
        self.images.append({'id': image_id, 'file_name': file_name, **size, **more})
        for at, entry in enumerate(prediction.to_coco(image_id)):
            if prediction.masks is not None:
                area = int(prediction.masks[at].sum())
            else:
                area = entry['bbox'][2] * entry['bbox'][3]
            comma = ',' if self.objects else ''
            self.objects += 1
            full = {'id': self.objects, **entry, 'area': area, 'iscrowd': 0}
            self._stream.write(f'{comma}\n{json.dumps(full)}')

    def finish(self) -> None:
        """Write the images and the end of the file."""
        entries = ',\n'.join(map(json.dumps, self.images))
        self._stream.write(f'\n],\n"images": [\n{entries}\n]}}\n')


Draw = Callable[[Any], tuple[Prediction, dict[str, Picture]]]


def _draw(
    detector: Any, image: Any, *, score: float, cam: bool
) -> tuple[Prediction, dict[str, Picture]]:
    """Return the objects of an image, and its pictures by kind."""
    prediction: Prediction = detector.predict(image).above(score)
    pictures = {'pictures': prediction.plot(score)}
    if cam:
        heat = detector.cam(image, score)
        pictures['cam'] = draw_heat(prediction.image, heat).view(Picture)
    return prediction, pictures


def _predict_images(
    source: Images, draw: Draw, record: _CocoWriter, result: PredictedFiles
) -> None:
    """Predict images, and report a line for each."""
    taken = set[str]()
    for name in source.names:
        start = time.monotonic()
        try:
            prediction, pictures = draw(source.folder / name)
        except UserError as error:
            if len(source.names) == 1:
                raise
            result.failed += 1
            logger.warning('%s', error)
            continue
        chosen = picture_name(name, taken)
        for kind, picture in pictures.items():
            path = result.out / kind / chosen
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        record.add(prediction, name, picture=f'pictures/{chosen}')
        seconds = time.monotonic() - start
        count = frames_of(source.folder / name)
        shown = f'{name} (first of {count} frames)' if count > 1 else name
        logger.info('%s: %s, %.2f s', shown, _described(prediction), seconds)
    if others := source.passed_over:
        shown = first([f'{n} {end}' for end, n in others.most_common()], 5)
        result.notes.append(f'passed over, since not images: {shown}')


def _predict_video(
    frames: Video, draw: Draw, record: _CocoWriter, result: PredictedFiles
) -> None:
    """Predict a video, with a progress bar if stderr is a terminal."""
    rate = frames.rate / frames.every  # so that it lasts as long as the original
    videos: dict[str, VideoFile] = {}
    total = -(-frames.count // frames.every) or None
    bar = progress(printable(frames.path.name), total)
    with contextlib.ExitStack() as opened, bar as advance:
        opened.callback(frames.close)
        for number, frame in frames:
            advance()
            prediction, pictures = draw(frame)
            for kind, picture in pictures.items():
                if kind not in videos:
                    (result.out / kind).mkdir()
                    path = result.out / kind / f'{frames.path.stem}.mp4'
                    videos[kind] = VideoFile(path, rate)
                    opened.callback(videos[kind].close)
                videos[kind].add(picture)
            seconds = round(number / frames.rate, 3)
            name = f'{frames.path.name}#{number}'
            record.add(prediction, name, frame=number, seconds=seconds)
    if frames.seen < frames.count:
        result.notes.append(
            f'{frames.path} ends after {frames.seen} of {frames.count} frames'
        )


def _described(prediction: Prediction) -> str:
    """Return e.g. '3 objects (2 circle, 1 square)'."""
    if not len(prediction):
        return 'no object'
    counts = Counter(prediction.names).most_common()
    names = ', '.join(f'{count} {name}' for name, count in counts)
    return f'{plural(len(prediction), "object")} ({names})'
