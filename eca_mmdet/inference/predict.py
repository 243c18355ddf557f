"""Prediction of images or a video into a folder: pictures and a COCO file."""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from eca_mmdet.inference.drawing import draw_heat
from eca_mmdet.inference.media import Images, Video, VideoFile, picture_name
from eca_mmdet.inference.prediction import Prediction
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.images import encode_image, frames_of
from eca_mmdet.utils.io import make_run_folder, whole_file
from eca_mmdet.utils.text import printable

logger = logging.getLogger(__name__)

RECORD = 'predictions.json'


@dataclass
class PredictedFiles:
    """Result of :func:`predict_files`.

    Attributes:
        kinds: subfolders with pictures or videos, 'pictures' and perhaps 'cam'.
        images: number of predicted images or frames.
        objects: number of objects with at least the given score.
        failed: number of images that could not be read.
        notes: remarks on the source.
        interrupted: Ctrl-C ended it early; what was done is written.
    """

    out: Path
    kinds: list[str]
    images: int
    objects: int
    failed: int
    seconds: float
    notes: list[str]
    interrupted: bool


def require_packages(masks: bool, video: bool) -> None:
    """Raise MissingPackageError if drawing or writing lacks a package."""
    names = {'cv2': 'opencv-python', 'PIL': 'pillow', 'matplotlib': 'matplotlib'}
    names |= {'pycocotools': 'pycocotools'} if masks else {}
    names |= {'rich': 'rich'} if video else {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingPackageError(
                f'predictions are drawn and written with {names[name]}, which is not '
                f'installed: pip install {" ".join(names.values())}'
            ) from error


def predict_files(
    detector: Any,
    source: Images | Video,
    out: str | None = None,
    score: float = 0.3,
    cam: bool = False,
    info: dict[str, Any] | None = None,
) -> PredictedFiles:
    """Predict images or a video, and write pictures and ``predictions.json``.

    Args:
        detector: an ``ECADetector`` or ``OnnxDetector``.
        source: from :func:`~eca_mmdet.inference.media.open_source`.
        out: folder to create; None for ``runs/predict-DATE-TIME``.
        score: least score of the objects.
        cam: also draw class activation maps; needs an ``ECADetector``.
        info: stored in ``predictions.json``.
    """
    if isinstance(source, Images) and source.single:
        detector.read(str(source.folder / source.names[0]))  # before creating a folder
    start = time.monotonic()
    folder = make_run_folder(out, 'predict')
    job = _Job(detector, folder, score, cam)
    interrupted = False
    with whole_file(folder / RECORD) as partial, partial.open('w') as stream:
        job.record = _CocoWriter(stream, detector.classes, info or {})
        try:
            if isinstance(source, Video):
                job.predict_video(source)
            else:
                job.predict_images(source)
        except KeyboardInterrupt:
            interrupted = True
        job.record.finish()
    return PredictedFiles(
        out=folder,
        kinds=[kind for kind in ('pictures', 'cam') if (folder / kind).is_dir()],
        images=len(job.record.images),
        objects=job.record.objects,
        failed=job.failed,
        seconds=time.monotonic() - start,
        notes=job.notes,
        interrupted=interrupted,
    )


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
            area = entry['bbox'][2] * entry['bbox'][3]
            if prediction.masks is not None:
                area = int(prediction.masks[at].sum())
            comma = ',' if self.objects else ''
            self.objects += 1
            full = {'id': self.objects, **entry, 'area': area, 'iscrowd': 0}
            self._stream.write(f'{comma}\n{json.dumps(full)}')

    def finish(self) -> None:
        """Write the images and the end of the file."""
        entries = ',\n'.join(map(json.dumps, self.images))
        self._stream.write(f'\n],\n"images": [\n{entries}\n]}}\n')


class _Job:
    """State of :func:`predict_files`; ``record`` is set before any prediction."""

    record: _CocoWriter

    def __init__(self, detector: Any, out: Path, score: float, cam: bool) -> None:
        self._detector, self._out, self._score = detector, out, score
        self._kinds = ('pictures', 'cam') if cam else ('pictures',)
        self.failed, self.notes = 0, list[str]()

    def predict_images(self, source: Images) -> None:
        """Predict images, and report a line for each."""
        taken = set[str]()
        for name in source.names:
            start = time.monotonic()
            try:
                prediction, pictures = self._predict(source.folder / name)
            except UserError as error:
                if len(source.names) == 1:
                    raise
                self.failed += 1
                logger.warning('%s', error)
                continue
            chosen = picture_name(name, taken)
            for kind, picture in pictures.items():
                path = self._out / kind / chosen
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as partial:
                    partial.write_bytes(encode_image(picture, path.suffix))
            self.record.add(prediction, name, picture=f'pictures/{chosen}')
            seconds = time.monotonic() - start
            count = frames_of(source.folder / name)
            shown = f'{name} (first of {count} frames)' if count > 1 else name
            logger.info('%s: %s, %.2f s', shown, _described(prediction), seconds)
        if others := source.passed_over:
            shown = ', '.join(f'{n} {end}' for end, n in others.most_common(5))
            more = ', ...' if len(others) > 5 else ''
            self.notes.append(f'passed over, since not images: {shown}{more}')

    def predict_video(self, frames: Video) -> None:
        """Predict a video, with a progress bar if stderr is a terminal."""
        from rich.console import Console
        from rich.progress import Progress

        rate = frames.rate / frames.every  # so that it lasts as long as the original
        videos = {}
        for kind in self._kinds:
            (self._out / kind).mkdir(exist_ok=True)
            videos[kind] = VideoFile(self._out / kind / frames.path.stem, rate)
        console = Console(stderr=True)
        quiet = not console.is_terminal
        try:
            with Progress(console=console, transient=True, disable=quiet) as progress:
                total = -(-frames.count // frames.every) or None
                for number, frame in progress.track(
                    frames, total, description=printable(frames.path.name)
                ):
                    prediction, pictures = self._predict(frame)
                    for kind, picture in pictures.items():
                        videos[kind].add(picture)
                    seconds = round(number / frames.rate, 3)
                    name = f'{frames.path.name}#{number}'
                    self.record.add(prediction, name, frame=number, seconds=seconds)
        finally:
            frames.close()
            for video in videos.values():
                video.close()
        if frames.seen < frames.count:
            self.notes.append(
                f'{frames.path} ends after {frames.seen} of {frames.count} frames'
            )

    def _predict(self, image: Any) -> tuple[Prediction, dict[str, Any]]:
        """Return the objects of an image, and its pictures by kind."""
        prediction: Prediction = self._detector.predict(image).above(self._score)
        pictures: dict[str, Any] = {'pictures': prediction.plot(self._score)}
        if 'cam' in self._kinds:
            heat = self._detector.cam(image, self._score)
            pictures['cam'] = draw_heat(prediction.image, heat)
        return prediction, pictures


def _described(prediction: Prediction) -> str:
    """Return e.g. '3 objects (2 circle, 1 square)'."""
    if not len(prediction):
        return 'no object'
    counts = Counter(prediction.names).most_common()
    names = ', '.join(f'{count} {name}' for name, count in counts)
    return f'{len(prediction)} object{"s" * (len(prediction) > 1)} ({names})'
