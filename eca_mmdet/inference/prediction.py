"""Predictions of one image, and what detectors have in common."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.errors import (
    UserError,
    require_choice,
    require_fraction,
    require_package,
)
from eca_mmdet.utils.images import encode_image, to_rgb
from eca_mmdet.utils.io import whole_file

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
ImageInput: TypeAlias = 'str | os.PathLike[str] | Array | Image.Image'
Order: TypeAlias = Literal['rgb', 'bgr']
Images: TypeAlias = 'list[Any] | tuple[ImageInput, ...]'

SHOWN_FROM = 0.3
"""Default score from which objects are drawn."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The n objects found in one image, sorted by descending score.

    ``prediction[rows]`` takes an index, a slice, a mask or positions, as NumPy does,
    and is a ``Prediction`` in the order asked for. Iteration yields one per object.

    Attributes:
        boxes: (n, 4) float32 x1, y1, x2, y2 in pixels of ``image``.
        scores: (n,) float32, 0-1, descending.
        labels: (n,) int64, positions in ``classes``.
        masks: (n, H, W) bool; None where the detector gives only boxes.
        classes: names by label.
        image: (H, W, 3) uint8, RGB, as the detector saw it: rotated as its EXIF data
            say; (0, 0, 3) where it was not kept.
        path: image file; None where an array was given.

    Example:
        >>> import numpy as np
        >>> prediction = Prediction(
        ...     boxes=np.array([[0, 0, 4, 4], [1, 1, 3, 3]], np.float32),
        ...     scores=np.array([0.2, 0.9], np.float32),
        ...     labels=np.array([0, 1]),
        ...     classes=('cat', 'dog'),
        ... )
        >>> prediction.names, prediction.above(0.5).boxes.tolist()
        (['dog', 'cat'], [[1.0, 1.0, 3.0, 3.0]])
        >>> [found.names[0] for found in prediction[prediction.labels == 0]]
        ['cat']
    """

    boxes: Array
    scores: Array
    labels: Array
    masks: Array | None = None
    classes: tuple[str, ...] = ()
    image: Array = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    path: str | None = None

    _chosen: ClassVar[bool] = False  # by index or score: plot then draws them all

    @classmethod
    def from_instances(cls, instances: Any, **kwargs: Any) -> Prediction:
        """Return the prediction in mmdet's ``pred_instances``."""
        masks = None
        if 'masks' in instances:
            masks = np.asarray(instances.masks.cpu().numpy(), bool)
        return cls(
            boxes=instances.bboxes.cpu().numpy().astype(np.float32),
            scores=instances.scores.cpu().numpy().astype(np.float32),
            labels=instances.labels.cpu().numpy().astype(np.int64),
            masks=masks,
            **kwargs,
        )

    def __post_init__(self) -> None:
        order = np.argsort(-self.scores, kind='stable')
        vars(self).update(self._columns(order))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: slice | npt.ArrayLike) -> Prediction:
        everything: Any = np.arange(len(self))
        positions = np.atleast_1d(everything[rows])
        if positions.ndim > 1:
            raise IndexError(f'objects have a single axis; got the index {rows!r}')
        part = copy.copy(self)
        if not np.array_equal(positions, everything):  # masks are large
            vars(part).update(self._columns(positions))
        vars(part)['_chosen'] = True
        return part

    def _columns(self, rows: Array) -> dict[str, Any]:
        columns = {n: getattr(self, n) for n in ('boxes', 'scores', 'labels', 'masks')}
        return {n: None if each is None else each[rows] for n, each in columns.items()}

    def __iter__(self) -> Iterator[Prediction]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        masks = '' if self.masks is None else ' with masks'
        where = '' if self.path is None else f' {self.path}'
        return f'<Prediction{where} {width}x{height}: {len(self)} objects{masks}>'

    @property
    def names(self) -> list[str]:
        """The n names of the classes."""
        return [self.classes[label] for label in self.labels]

    def above(self, score_thr: float) -> Prediction:
        """Return the objects of at least a score."""
        require_fraction('score_thr', score_thr)
        return self[self.scores >= score_thr]

    def finite(self) -> Prediction:
        """Return the objects whose box and score are finite."""
        rows = np.isfinite(self.scores) & np.isfinite(self.boxes).all(1)
        return self if rows.all() else replace(self, **self._columns(rows))

    def to_coco(
        self, image_id: int | str = 0, category_ids: Sequence[int | str] | None = None
    ) -> list[dict[str, Any]]:
        """Return COCO result entries, for ``json.dump`` and pycocotools' ``loadRes``.

        Boxes become x, y, width, height. Masks become compressed RLE with text counts.

        ``category_ids`` are by label. Without them, a category's id is its label + 1,
        which is right for files that number their categories 1, 2, 3, ...; COCO's own
        have gaps.
        """
        count = len(self.classes)
        ids = [*(range(1, count + 1) if category_ids is None else category_ids)]
        if len(ids) != count:
            raise UserError(
                f'category_ids must be {count} ids, one for each of '
                f'{", ".join(self.classes)}; got {len(ids)}.',
                code='class-mismatch',
            )
        entries = []
        for at, (x1, y1, x2, y2) in enumerate(self.boxes.astype(float).tolist()):
            category = ids[self.labels[at]]
            entry: dict[str, Any] = {
                'image_id': image_id,
                'category_id': category if isinstance(category, str) else int(category),
                'bbox': [x1, y1, x2 - x1, y2 - y1],
                'score': float(self.scores[at]),
            }
            if self.masks is not None:
                from pycocotools import mask as api

                rle = api.encode(np.asfortranarray(self.masks[at], np.uint8))
                entry['segmentation'] = rle | {'counts': rle['counts'].decode()}
            entries.append(entry)
        return entries

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``, the names in ``data['class_name']``."""
        supervision = require_package('supervision', 'to_supervision()', 'supervision')
        return supervision.Detections(
            xyxy=self.boxes.reshape(-1, 4),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={'class_name': np.array(self.names, dtype=str)},
        )

    def plot(
        self,
        score_thr: float | None = None,
        line_width: int | None = None,
        show_labels: bool = True,
    ) -> Picture:
        """Draw the objects of at least a score; a notebook shows what is returned.

        Without a score they are those of 0.3 or more, and all objects of a part that
        was chosen by :meth:`above`, an index, or ``predict(image, score_thr)``.
        ``line_width`` is in pixels; ``show_labels=False`` leaves out names and scores.
        """
        from eca_mmdet.inference.drawing import draw_objects

        if score_thr is None:
            score_thr = 0 if self._chosen else SHOWN_FROM
        kept = self.above(score_thr)
        pairs = zip(kept.names, kept.scores, strict=True)
        texts = [f'{name} {value:.2f}' if show_labels else '' for name, value in pairs]
        drawn = draw_objects(
            self.image, kept.boxes, kept.labels, texts, kept.masks, line_width
        )
        return drawn.view(Picture)

    def _repr_png_(self) -> bytes:
        return self.plot()._repr_png_() or b''


def in_rgb(image: ImageInput, order: Order) -> str | os.PathLike[str] | Array:
    """Return the path of an image file as it is, and any other image as RGB."""
    require_choice('channel_order', order, ('rgb', 'bgr'))
    if isinstance(image, (str, os.PathLike)):
        return image
    rgb = to_rgb(image)
    return rgb[..., ::-1] if order == 'bgr' and isinstance(image, np.ndarray) else rgb


class Detector:
    """Images in, predictions out."""

    @overload
    def predict(
        self, image: ImageInput, score_thr: float = 0, channel_order: Order = 'rgb'
    ) -> Prediction: ...

    @overload
    def predict(
        self, image: Images, score_thr: float = 0, channel_order: Order = 'rgb'
    ) -> list[Prediction]: ...

    def predict(
        self,
        image: ImageInput | Images,
        score_thr: float = 0,
        channel_order: Order = 'rgb',
    ) -> Prediction | list[Prediction]:
        """Find objects.

        Args:
            image: path, (H, W, 3) uint8 array, or PIL image; or a list of these, which
                are run one after the other and give a list.
            score_thr: leave out objects of a lower score, 0-1; 0 for all that the
                detector returns, which AP is computed from.
            channel_order: 'bgr' for arrays of ``cv2.imread``; ignored for others.

        Raises:
            UserError: there is no such image, or it cannot be read.
        """
        images = image if isinstance(image, (list, tuple)) else [image]
        found = [self._predict_one(in_rgb(each, channel_order)) for each in images]
        if score_thr:
            found = [each.above(score_thr) for each in found]
        return found if images is image else found[0]

    def _predict_one(self, image: str | os.PathLike[str] | Array) -> Prediction:
        raise NotImplementedError


class Picture(np.ndarray):  # type: ignore[type-arg]
    """An image array that notebooks show as a picture: (H, W, 3) uint8, RGB."""

    def _repr_png_(self) -> bytes | None:
        if self.ndim != 3 or self.shape[2] != 3 or not self.size:
            return None  # a slice of a picture is an ordinary array
        return encode_image(np.asarray(self), '.png')

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the picture to a file; its ending chooses the format.

        Missing folders are created. A file that exists is an error, unless
        ``overwrite``.
        """
        path = Path(path)
        raw = encode_image(np.asarray(self), path.suffix)
        if os.path.lexists(path) and not overwrite:
            raise UserError(
                f'{path} exists. Save the picture with overwrite=True, or elsewhere.',
                code='output-exists',
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_bytes(raw)
