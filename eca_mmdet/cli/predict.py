"""``eca-mmdet predict``: pictures and a COCO file of what a detector finds."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eca_mmdet import __version__
from eca_mmdet.inference import media
from eca_mmdet.inference.predictions_file import PredictionsFile
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import make_run_folder, require_free, whole_file
from eca_mmdet.utils.text import printable

if TYPE_CHECKING:
    from eca_mmdet.export.runtime import OnnxDetector
    from eca_mmdet.inference.detector import ECADetector
    from eca_mmdet.inference.prediction import Prediction

RECORD = 'predictions.json'


def run(args: argparse.Namespace) -> int:
    """Predict; 1 if one of several images could not be read."""
    if not args.source:
        raise UserError('an image, a folder or a video is expected; got an empty name.')
    source = Path(args.source)
    frames, names = None, []
    if media.is_video(source) and not source.is_dir():
        frames = media.Video(source, args.every or 1)
    elif args.every is not None:
        raise UserError(f'--every goes with a video; {source} is none by its name.')
    else:
        names = media.find_images(source)
    if args.out:
        require_free(args.out)
    detector = _load(args)
    if names and not source.is_dir():
        detector.read(str(source))  # before a folder is made for nothing
    job = _Job(args, detector, make_run_folder(args.out, 'predict'))
    stopped = False
    with whole_file(job.out / RECORD) as partial, partial.open('w') as stream:
        job.record = PredictionsFile(stream, detector.classes, _info(args))
        try:
            if frames is not None:
                job.do_video(frames)
            else:
                job.do_images(source, names)
        except KeyboardInterrupt:
            stopped = True
        job.record.finish()
    print(job.summary())
    if stopped:
        raise KeyboardInterrupt
    return int(job.failed > 0)


def _load(args: argparse.Namespace) -> ECADetector | OnnxDetector:
    if args.checkpoint.lower().endswith('.onnx'):
        return _load_onnx(args)
    from eca_mmdet.inference.detector import ECADetector

    detector = ECADetector.from_checkpoint(args.checkpoint, args.config, args.device)
    if args.cam:
        from eca_mmdet.inference.cam import require_traceable

        require_traceable(detector.model)
    return detector


def _load_onnx(args: argparse.Namespace) -> OnnxDetector:
    from eca_mmdet.export.runtime import OnnxDetector

    for name, refused, reason in (
        ('--cam', args.cam, 'an ONNX file has no gradients, which a CAM is made of'),
        ('--config', args.config is not None, 'an ONNX file has its network in it'),
        (
            '--device',
            args.device not in (None, 'cpu'),
            'an ONNX file is run on the CPU here; in Python: OnnxDetector(path, '
            "providers=['CUDAExecutionProvider'])",
        ),
    ):
        if refused:
            raise UserError(f'{name} goes with a checkpoint of mmengine: {reason}.')
    detector = OnnxDetector(args.checkpoint)
    _require_packages(
        masks=detector.metadata['mask_threshold'] is not None,
        video=media.is_video(Path(args.source)),
    )
    return detector


def _require_packages(masks: bool, video: bool) -> None:
    """Import what draws and writes, before a folder is made: mmdet's install has it.

    Raises:
        MissingPackageError: one is not installed.
    """
    names = {'cv2': 'opencv-python', 'PIL': 'pillow', 'matplotlib': 'matplotlib'}
    names |= {'pycocotools': 'pycocotools'} if masks else {}
    names |= {'rich': 'rich'} if video else {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingPackageError(
                f'what is found is drawn and written with {names[name]}, which is not '
                f'installed: pip install {" ".join(names.values())}'
            ) from error


def _info(args: argparse.Namespace) -> dict[str, Any]:
    return {
        'description': 'objects that a detector found',
        'checkpoint': args.checkpoint,
        'source': args.source,
        'score_thr': args.score_thr,
        'eca_mmdet': __version__,
    }


class _Job:
    """One call of the command.

    Attributes:
        out: the run folder.
        record: where predictions are written; set before any is made.
        failed: images that could not be read.
        notes: lines for the end.
    """

    record: PredictionsFile

    def __init__(
        self, args: argparse.Namespace, detector: ECADetector | OnnxDetector, out: Path
    ) -> None:
        self.detector: Any = detector  # with --cam one that has cam()
        self.out = out
        self.score, self.cam = args.score_thr, args.cam
        self.failed, self.notes, self._kind = 0, list[str](), 'image'
        self._start = time.monotonic()

    def do_images(self, folder: Path, names: list[str]) -> None:
        """Predict images, and print a line for each."""
        folder = folder if folder.is_dir() else folder.parent
        taken = set[str]()
        for name in names:
            start = time.monotonic()
            try:
                found = self._predict(folder / name)
            except UserError as error:
                if len(names) == 1:
                    raise
                self.failed += 1
                print(printable(str(error)), file=sys.stderr)
                continue
            picture = media.picture_name(name, taken)
            self._write('pictures', picture, found.plot(self.score))
            if self.cam:
                self._write('cam', picture, self._heat(found, folder / name))
            self.record.add(found, name, picture=f'pictures/{picture}')
            seconds = time.monotonic() - start
            print(printable(f'{name}: {_told(found)}, {seconds:.2f} s'), flush=True)

    def do_video(self, frames: media.Video) -> None:
        """Predict a video, with a progress bar if the terminal shows one."""
        from rich.console import Console
        from rich.progress import Progress

        self._kind = 'frame'
        kinds = ('pictures', 'cam') if self.cam else ('pictures',)
        rate = frames.rate / frames.every  # so that it lasts as long as the original
        videos = {one: self._video(one, frames.path, rate) for one in kinds}
        console = Console(stderr=True)
        quiet = not console.is_terminal
        try:
            with Progress(console=console, transient=True, disable=quiet) as progress:
                total = -(-frames.count // frames.every) or None
                for number, frame in progress.track(
                    frames, total, description=printable(frames.path.name)
                ):
                    self._do_frame(number, frame, frames, videos)
        finally:
            frames.close()
            for video in videos.values():
                video.close()
        if frames.seen < frames.count:
            self.notes.append(
                f'{frames.path} ends after {frames.seen} of {frames.count} frames'
            )

    def _do_frame(
        self,
        number: int,
        frame: Any,
        frames: media.Video,
        videos: dict[str, media.VideoFile],
    ) -> None:
        found = self._predict(frame)
        videos['pictures'].add(found.plot(self.score))
        if self.cam:
            videos['cam'].add(self._heat(found, frame))
        name = f'{frames.path.name}#{number}'
        seconds = round(number / frames.rate, 3)
        self.record.add(found, name, frame=number, seconds=seconds)

    def _predict(self, image: Any) -> Prediction:
        found: Prediction = self.detector.predict(image)
        return found.above(self.score)

    def _heat(self, found: Prediction, image: Any) -> Any:
        from eca_mmdet.inference.drawing import draw_heat

        return draw_heat(found.image, self.detector.cam(image, self.score))

    def _video(self, kind: str, path: Path, rate: float) -> media.VideoFile:
        (self.out / kind).mkdir(exist_ok=True)
        return media.VideoFile(self.out / kind / path.stem, rate)

    def _write(self, kind: str, name: str, image: Any) -> None:
        from eca_mmdet.inference.prediction import encode

        path = self.out / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_bytes(encode(image, path.suffix))

    def summary(self) -> str:
        """Say what was done, and where it is."""
        count, objects = len(self.record.images), self.record.objects
        failed = f', {self.failed} could not be read' if self.failed else ''
        seconds = time.monotonic() - self._start
        lines = [
            *self.notes,
            f'{_many(count, self._kind)}{failed}: {_many(objects, "object")} with a '
            f'score of {self.score:g} or more; {seconds:.1f} s. Look at:',
        ]
        kinds = [one for one in ('pictures', 'cam') if (self.out / one).is_dir()]
        lines += [f'  {self.out / one}' for one in (*kinds, RECORD)]
        return '\n'.join(map(printable, lines))


def _told(found: Prediction) -> str:
    """Return '3 objects (2 circle, 1 square)'."""
    if not len(found):
        return 'no object'
    counts = Counter(found.names).most_common()
    names = ', '.join(f'{count} {name}' for name, count in counts)
    return f'{_many(len(found), "object")} ({names})'


def _many(count: int, thing: str) -> str:
    return f'{count} {thing}' if count == 1 else f'{count} {thing}s'
