"""Prediction of images or a video: pictures in a folder, and a COCO file."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from eca_mmdet.inference.drawing import draw_heat, pixels_of
from eca_mmdet.inference.prediction import Picture, Prediction
from eca_mmdet.utils.errors import UserError, require_classes
from eca_mmdet.utils.images import frames_of, require_local
from eca_mmdet.utils.io import (
    make_run_folder,
    require_regular,
    take_own_folder,
    whole_file,
)
from eca_mmdet.utils.text import first, plural, printable, progress

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

RECORD = 'predictions.json'
KINDS = ('pictures', 'cam', 'crops')  # folders beside it
IMAGES = frozenset(
    '.apng .avif .bmp .dib .gif .jfi .jfif .jif .jp2 .jpe .jpeg .jpg .pam .pbm .pgm '
    '.png .pnm .ppm .ras .sr .tif .tiff .webp'.split()
)
VIDEOS = frozenset(
    '.3gp .avi .flv .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv'.split()
)
_SIGNATURE = re.compile(
    rb'\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM....\0{4}|\0\0\0\x0cjP  ',
    re.DOTALL,
)
"""Starts of image files, whatever their names; camera files start like TIFF."""
_WRITTEN = ('.png', '.jpg', '.jpeg')
_USUAL_RATE = 25.0
_LINES = 20  # of images; more have a progress bar


@dataclass(frozen=True)
class Images:
    """Names of images relative to a folder; other files counted by their endings."""

    folder: Path
    names: list[str]
    passed_over: Counter[str]


def open_source(
    sources: str | Sequence[str], every: int | None = None
) -> Images | Video:
    """Return the images, or the video, at some paths.

    Args:
        sources: images, folders and patterns (``*``, ``?``, ``**``); or one video.
        every: use every N-th frame of the video.
    """
    sources = [sources] if isinstance(sources, str) else sources
    paths = list(dict.fromkeys(path for name in sources for path in _paths(name)))
    video = next((path for path in paths if _kind(path) == 'video'), None)
    if video and len(paths) > 1:
        raise UserError(
            f'a video is predicted by itself; got {len(paths)} sources, {video} among '
            'them.',
            code='option-conflict',
        )
    if video:
        return Video(video, every or 1)
    if every is not None:
        raise UserError(
            f'--every goes with a video; {paths[0]} is none by its name.',
            code='option-conflict',
        )
    passed_over = Counter[str]()
    folders = [path if path.is_dir() else path.parent for path in paths]
    above_all = os.path.commonpath([folder.absolute() for folder in folders])
    root = folders[0] if len(paths) == 1 else Path(above_all)
    names = [
        os.path.relpath(folder / name, root)
        for folder, path in zip(folders, paths, strict=True)
        for name in find_images(path, passed_over)
    ]
    return Images(root, list(dict.fromkeys(names)), passed_over)


def _paths(source: str) -> list[Path]:
    """Return the paths that a name stands for; a file's own name goes first."""
    expanded = os.path.expanduser(source)
    for name in (source, expanded):
        if os.path.exists(name):
            return [Path(name)]
    require_local(source)
    problem = 'does not exist; images, folders or a video are expected'
    if glob.has_magic(expanded):
        found = map(Path, glob.iglob(expanded, recursive=True))
        if media := sorted(path for path in found if _kind(path)):
            return media
        problem = 'matches no image, folder or video'
    name = source or 'a file without a name'
    raise UserError(f'{name} {problem}.', code='file-not-found')


def _kind(path: Path) -> str:
    """Return 'folder', 'image' or 'video', by name or first bytes; '' for others."""
    if path.is_dir():
        return 'folder'
    suffix = path.suffix.lower()
    for kind, suffixes in (('image', IMAGES), ('video', VIDEOS)):
        if suffix in suffixes:
            return kind
    if not path.is_file():
        return ''
    try:
        with open(path, 'rb') as file:
            head = file.read(12)
    except OSError:
        return ''
    tiff = not suffix and head[:4] in (b'II*\0', b'MM\0*')
    return 'image' if tiff or _SIGNATURE.match(head) else ''


def find_images(source: Path, passed_over: Counter[str] | None = None) -> list[str]:
    """Return the images of a folder and its subfolders, sorted; or the one file.

    Names are relative to the folder, or to that of the file. Hidden files and folders
    are passed over, and links to folders are not followed. Other files are counted in
    ``passed_over``.
    """
    if not source.is_dir():
        return [source.name]
    names, others = [], Counter[str]() if passed_over is None else passed_over
    for folder, below, files in os.walk(source):
        below[:] = [name for name in below if not name.startswith('.')]
        for path in (Path(folder, name) for name in files if name[0] != '.'):
            if _kind(path) == 'image':
                names.append(path.relative_to(source).as_posix())
            else:
                others[path.suffix.lower() or path.name] += 1
    if not names:
        raise UserError(
            f'{source} has no image in it, nor has a folder below it. Looked for: '
            f'{" ".join(sorted(IMAGES))}. (A video is given by its own path.)',
            code='no-images',
        )
    return sorted(names)


def picture_name(name: str, taken: set[str]) -> str:
    """Choose the name of a drawn image, and add it to those that are taken.

    PNG and JPEG images keep their names, others become PNG.
    """
    path = Path(name)
    if path.suffix.lower() not in _WRITTEN:
        path = path.with_name(f'{path.name}.png')
    chosen, number = path.as_posix(), 1
    while chosen in taken:
        number += 1
        chosen = path.with_name(f'{path.stem}-{number}{path.suffix}').as_posix()
    taken.add(chosen)
    return chosen


class Video:
    """The frames of a video, one at a time.

    Attributes:
        rate: frames a second.
        count: number of frames that the file states; 0 where it does not.
        seen: number of frames that were read.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        import cv2

        self.path, self.every, self.seen = path, every, 0
        require_regular(path, 'video', sys.maxsize)
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened() or not self._capture.grab():
            raise UserError(
                f'{path} is not a video that OpenCV reads: not one frame of it.',
                code='unsupported-format',
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE
        self.count = int(count) if math.isfinite(count) and count > 0 else 0

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """Yield numbers from 0 and (H, W, 3) uint8 RGB frames."""
        grabbed = True  # the first, when the file was opened
        while grabbed:
            if self.seen % self.every == 0:
                known, frame = self._capture.retrieve()
                if not known:
                    return
                yield self.seen, np.ascontiguousarray(frame[..., ::-1])
            self.seen += 1
            grabbed = self._capture.grab()

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class VideoFile:
    """An MP4 video, written frame by frame; it can be played whenever it is closed.

    The rate is frames a second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._rate = path, rate
        self._writer: Any = None

    def add(self, frame: Array) -> None:
        """Append a frame, (H, W, 3) uint8 RGB; all are of the size of the first."""
        import cv2

        height, width = frame.shape[:2]
        # MPEG-4 has even sides; an odd one grows by a pixel, the last repeated.
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
        if self._writer is None:
            codec, size = cv2.VideoWriter.fourcc(*'mp4v'), frame.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self.path), codec, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(
                    f'OpenCV cannot write the video {self.path}.',
                    code='file-not-written',
                )
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@dataclass
class PredictedFiles:
    """Result of :func:`predict_files`.

    Attributes:
        kinds: subfolders with pictures or videos, of :data:`KINDS`.
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


def labels_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the labels of classes that are given by name, or by number from 0."""
    known = {str(label): label for label in range(len(classes))}
    known |= {name: label for label, name in enumerate(classes)}
    require_classes([n for n in names if n not in known], classes, 'the detector')
    return [known[name] for name in names]


def _take_folder(folder: Path, source: Images | Video) -> Path:
    """Accept the folder of an earlier call, and remove its results."""
    take_own_folder(folder, (RECORD, *KINDS))
    found = list(folder.iterdir())
    # A call that was killed leaves a partial record.
    records = [p for p in found if p.name.startswith((RECORD, f'.{RECORD}.'))]
    own = [*records, *(p for p in found if p.name in KINDS)]
    if isinstance(source, Video):
        paths = [source.path]
    else:
        paths = [source.folder / name for name in source.names]
    inside = any(folder.resolve() in path.resolve().parents for path in paths)
    if inside or (own and not records):
        raise UserError(
            f'--out {folder} has images in it that are not results of an earlier '
            'call, or are to be predicted now. Name another folder.',
            code='output-exists',
        )
    if own:
        logger.info('%s: replacing the results of an earlier call', folder)
    for path in own:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def predict_files(
    detector: Any,
    source: Images | Video,
    out: str | None = None,
    score: float = 0.3,
    cam: bool = False,
    info: dict[str, Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    most: int | None = None,
    crops: bool = False,
    force: bool = False,
    **plot: Any,
) -> PredictedFiles:
    """Predict images or a video, and write pictures and ``predictions.json``.

    ``detector`` is an ``ECADetector`` or ``OnnxDetector``; ``cam`` also draws class
    activation maps, which need the former. ``out`` is a folder to create, None for
    ``runs/predict-DATE-TIME``; ``info`` is stored in ``predictions.json``.

    Of an image, the ``most`` surest objects are kept, of ``classes`` if they are given.
    ``crops`` also writes each object alone, and ``force`` replaces the results of an
    earlier call in ``out``. ``plot`` is for :meth:`Prediction.plot`.
    """
    if isinstance(source, Images) and len(source.names) == 1:
        detector.read(str(source.folder / source.names[0]))  # before creating a folder
    least = np.full(len(detector.classes), score, np.float32)
    if classes is not None:
        others = np.delete(np.arange(len(least)), labels_of(classes, detector.classes))
        least[others] = 2
    start = time.monotonic()
    if force and out and os.path.lexists(out):
        result = PredictedFiles(_take_folder(Path(out), source))
    else:
        result = PredictedFiles(make_run_folder(out, 'predict'))

    def draw(image: Any) -> tuple[Prediction, dict[str, Picture]]:
        """Return the objects of an image, and its pictures by kind."""
        found: Prediction = detector.predict(image)
        rows = np.flatnonzero(found.scores >= least[found.labels])[:most]
        prediction = found[rows]
        pictures = {'pictures': prediction.plot(0, **plot)}
        if cam:
            last = prediction.scores.min(initial=1) - 1e-6  # rounding aside
            heat = detector.cam(image, np.maximum(least, last if most else 0))
            pictures['cam'] = draw_heat(prediction.image, heat).view(Picture)
        return prediction, pictures

    with whole_file(result.out / RECORD) as partial, partial.open('w') as stream:
        record = _CocoWriter(
            stream, detector.classes, info or {}, result.out if crops else None
        )
        try:
            if isinstance(source, Video):
                _predict_video(source, draw, record, result)
            else:
                _predict_images(source, draw, record, result)
        except KeyboardInterrupt:
            result.interrupted = True
        record.finish()
    result.kinds = [kind for kind in KINDS if (result.out / kind).is_dir()]
    result.images, result.objects = len(record.images), record.objects
    result.seconds = time.monotonic() - start
    return result


class _CocoWriter:
    """Write predictions as a COCO annotation file whose entries are COCO results too.

    Only one line per image is kept in memory. The category of label 0 has id 1. Below
    ``crops``, if it is given, each object has a picture, by class.
    """

    def __init__(
        self, stream: TextIO, classes: Sequence[str], info: Any, crops: Path | None
    ) -> None:
        self._stream, self._crops, self.objects = stream, crops, 0
        self._taken = set[str]()  # names of crops
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
        frame = f'-{more["frame"]}' if 'frame' in more else ''
        stem = f'{Path(file_name).with_suffix("")}{frame}'
        for at, entry in enumerate(prediction.to_coco(image_id)):
            if prediction.masks is not None:
                area = int(prediction.masks[at].sum())
            else:
                area = entry['bbox'][2] * entry['bbox'][3]
            comma = ',' if self.objects else ''
            self.objects += 1
            full = {'id': self.objects, **entry, 'area': area, 'iscrowd': 0}
            pixels = pixels_of(prediction.boxes[at], (height, width))
            if self._crops and pixels:
                x1, y1, x2, y2 = pixels
                # Names of classes come from anywhere.
                kind = re.sub(r'[^\w -]', '_', prediction.names[at])[:60]
                name = f'crops/{kind}/{stem}-{at + 1}.png'
                full['crop'] = picture_name(name, self._taken)
                crop = prediction.image[y1 : y2 + 1, x1 : x2 + 1]
                crop.view(Picture).save(self._crops / full['crop'])
            self._stream.write(f'{comma}\n{json.dumps(full)}')

    def finish(self) -> None:
        """Write the images and the end of the file."""
        entries = ',\n'.join(map(json.dumps, self.images))
        self._stream.write(f'\n],\n"images": [\n{entries}\n]}}\n')


Draw = Callable[[Any], tuple[Prediction, dict[str, Picture]]]


def _predict_images(
    source: Images, draw: Draw, record: _CocoWriter, result: PredictedFiles
) -> None:
    """Predict images; report each of a few, or else how far it is."""
    taken, total = set[str](), len(source.names)
    few = total <= _LINES
    with progress('images', total, shown=not few) as advance:
        for name in source.names:
            advance()
            start = time.monotonic()
            try:
                prediction, pictures = draw(source.folder / name)
            except UserError as error:
                if total == 1:
                    raise
                result.failed += 1
                logger.warning('%s', error)
                continue
            chosen = picture_name(name, taken)
            for kind, picture in pictures.items():
                picture.save(result.out / kind / chosen)
            record.add(prediction, name, picture=f'pictures/{chosen}')
            if few:
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
