"""The worst and the best images, objects beside detections."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.ground_truth import GroundTruth, read_ground_truth
from eca_mmdet.datasets.masks import mask_api, to_rle
from eca_mmdet.reporting.run import Options, Run, tasks_of, title_of
from eca_mmdet.reporting.sections import Section
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.images import encode_image, read_rgb

Array = npt.NDArray[Any]

SIDES = (320, 640)  # the longer side of a picture, in pixels, is brought between these
_QUALITY = 82


def _images(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return the worst and the best images of each run that has an analysis, drawn."""
    galleries = []
    for at, run in enumerate(runs):
        tasks = [task for task in tasks_of([run]) if run.analysis.get(task)]
        if not tasks or not options.examples:
            continue
        task = tasks[-1]  # masks, where there are some
        analysis = run.analysis[task]
        try:
            truth = _truth(run, options.annotations)
            folder = find_images(run, options.images)
        except UserError as error:
            run.missing.append(f'worst and best images: {error}')
            continue
        for kind, entries in _chosen(analysis, options.examples):
            drawn = (_picture(entry, truth, folder, task, run) for entry in entries)
            if pictures := [picture for picture in drawn if picture]:
                gallery = {'kind': kind, 'run': run.label, 'colour': at}
                gallery |= {'title': title_of(task), 'pictures': pictures}
                gallery |= {'threshold': analysis.get('score_threshold')}
                galleries.append(gallery)
    return {'galleries': galleries} if galleries else None


IMAGES = Section('images', 'Images', _images)


def _chosen(analysis: Any, count: int) -> list[tuple[str, list[Any]]]:
    """Return the worst and the best images; one that is both is the worst."""
    worst = (analysis.get('worst_images') or [])[:count]
    ids = [entry.get('image_id') for entry in worst]
    best = analysis.get('best_images') or []
    best = [entry for entry in best if entry.get('image_id') not in ids]
    return [('worst', worst), ('best', best[:count])]


def find_annotations(run: Run, annotations: str | None) -> str:
    """Return the annotation file: the named one, the record's or the config's."""
    path = annotations or run.recorded('annotations', 'file') or _places(run)[0]
    if not path:
        raise UserError(
            'nothing names an annotation file: --ann A.json does',
            code='not-annotations',
        )
    return str(path)


def _places(run: Run) -> tuple[str, str | None]:
    """Return annotation file and image folder of the config's evaluated dataset.

    For a run without numbers, that is its test dataset; ('', None) without a dataset.
    """
    from eca_mmdet.engine.config import leaf_datasets

    recorded = run.recorded('annotations', 'file')
    for name in ('test_dataloader', 'val_dataloader'):
        for dataset in leaf_datasets((run.config or {}).get(name))[:1]:
            root, prefix = (
                str(dataset.get('data_root') or ''),
                dataset.get('data_prefix'),
            )
            file = os.path.join(root, str(dataset.get('ann_file') or ''))
            if recorded is None or os.path.normpath(recorded) == os.path.normpath(file):
                part = prefix.get('img', '') if isinstance(prefix, dict) else ''
                file = file if dataset.get('ann_file') else ''
                return file, os.path.join(root, str(part or ''))
    return '', None


def _truth(run: Run, annotations: str | None) -> GroundTruth:
    """Read the annotation file that the numbers are of, and no other."""
    truth = read_ground_truth(find_annotations(run, annotations))
    recorded = run.recorded('annotations', 'sha256')
    if recorded not in (None, truth.sha256):
        raise UserError(
            f'{truth.source} is not the annotation file that was used (sha256 '
            f'{truth.sha256[:12]}..., recorded {str(recorded)[:12]}...)',
            code='not-annotations',
        )
    return truth


def find_images(run: Run, images: str | None) -> Path:
    """Return the folder of the images: the named one, or the config's."""
    images = _places(run)[1] if images is None else images
    if images is None:
        raise UserError(
            'image folder unknown, since the config does not have the annotations that '
            'were used; pass --images DIR',
            code='no-images',
        )
    if not Path(images).is_dir():
        raise UserError(
            f'{images} is no folder of images here; name it with --images',
            code='no-images',
        )
    return Path(images)


def _picture(
    entry: Any, truth: GroundTruth, folder: Path, task: str, run: Run
) -> dict[str, Any] | None:
    """Draw one image twice; None, with a line in ``missing``, where it cannot be."""
    number = entry['image_id']
    try:
        if number not in truth.image_ids:
            raise UserError(
                f'{truth.source} has no image {number!r}', code='not-annotations'
            )
        at = truth.image_ids.index(number)
        image = read_rgb(str(inside(folder, truth.file_names[at])))
        return _drawn(entry, truth, at, task, image)
    except UserError as error:
        run.missing.append(f'image {number!r}: {error}')
    except Exception as error:  # of objects or detections that cannot be drawn
        run.missing.append(f'image {number!r} cannot be drawn: {error!r}')
    return None


def inside(folder: Path, name: str) -> Path:
    """Return the path of an image by its name in an annotation file.

    The name must not lead out of the folder: a page may be handed on, and must not
    have pictures in it from elsewhere.
    """
    plain = os.path.normpath(name)
    if not name or os.path.isabs(plain) or plain.split(os.sep)[0] == os.pardir:
        raise UserError(
            f'its name {name!r} is not one of a file in {folder}', code='no-images'
        )
    return folder / plain


def _drawn(
    entry: Any, truth: GroundTruth, at: int, task: str, image: Array
) -> dict[str, Any]:
    """Return what the page shows of an image, its objects and its detections."""
    sizes: list[int] = truth.sizes[at].tolist()
    size = sizes if all(sizes) else list(image.shape[:2])  # height and width
    names = dict(zip(truth.category_ids, truth.category_names, strict=True))
    detections = entry['detections']
    for detection in detections:
        if detection['category_id'] not in names:
            raise UserError(
                f'{truth.source} has no class {detection["category_id"]!r}',
                code='unknown-class',
            )
        mask = detection.get('segmentation')
        if task == 'segm' and (not mask or list(mask['size']) != size):
            raise UserError(
                f'a mask of it is not of its size, {size}', code='not-results'
            )
    rows = np.flatnonzero(truth.image == at)
    objects = [
        truth.category_names[truth.category[row]] + ' (crowd)' * bool(truth.crowd[row])
        for row in rows
    ]
    labels = [list(names).index(each['category_id']) for each in detections]
    texts = [f'{names[each["category_id"]]} {each["score"]:.2f}' for each in detections]
    boxes: Any = [each.get('bbox') for each in detections]
    truths: Any = None
    masks: Any = None
    if task == 'segm':
        shapes = [truth.segmentations[row] for row in rows]
        truths = [to_rle(shape, *size) if shape else None for shape in shapes]
        masks = [each['segmentation'] for each in detections]
        boxes = mask_api().toBbox(masks) if masks else []
    canvas, scale = fit(image)
    place = (truth.boxes[rows], truth.category[rows])
    return {
        'name': truth.file_names[at],
        **{key: entry[key] for key in ('f1', 'tp', 'fp', 'fn')},
        'width': canvas.shape[1],
        'height': canvas.shape[0],
        'objects': _encode(_draw(canvas, scale, *place, objects, truths)),
        'detections': _encode(_draw(canvas, scale, boxes, labels, texts, masks)),
    }


def fit(image: Array) -> tuple[Array, float]:
    """Return an image of a size that reads well on the page, and the scale."""
    import cv2

    side = max(image.shape[:2])
    scale = float(np.clip(side, *SIDES) / side)
    if scale == 1:
        return image, 1.0
    size = [max(1, round(scale * pixels)) for pixels in image.shape[1::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method), scale


def _draw(
    canvas: Array,
    scale: float,
    boxes: Any,
    labels: Any,
    texts: list[str],
    masks: list[Any] | None,
) -> Array:
    """Draw boxes of x, y, width, height and RLEs of the image's own size."""
    import cv2

    from eca_mmdet.inference.drawing import draw_objects

    corners = np.asarray(boxes, np.float64).reshape(-1, 4) * scale
    corners[:, 2:] += corners[:, :2]
    stack = None
    if masks:
        height, width = canvas.shape[:2]
        stack = np.zeros((len(masks), height, width), bool)
        for index, mask in enumerate(masks):
            if mask is not None:
                whole = mask_api().decode(mask)
                resized = cv2.resize(whole, (width, height), interpolation=0)
                stack[index] = resized > 0
    return draw_objects(canvas, corners, np.asarray(labels, int), texts, stack)


def _encode(image: Array) -> str:
    """Return an RGB image as a data address, JPEG."""
    data = encode_image(image, '.jpg', _QUALITY)
    return 'data:image/jpeg;base64,' + base64.b64encode(data).decode()
