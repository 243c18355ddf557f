"""The COCO folder that rows are measured on: val2017, whole or a part of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.ground_truth import ground_truth
from eca_mmdet.datasets.images import find_missing
from eca_mmdet.utils.errors import UserError

ANNOTATIONS = 'annotations/instances_val2017.json'
IMAGES = 'val2017'
WHOLE = {'images': 5000, 'annotations': 36781, 'categories': 80}
"""Of instances_val2017.json as COCO publishes it."""

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = [one for one in range(1, 91) if one not in _GAPS]
"""COCO's 80 categories."""


@dataclass(frozen=True)
class CocoFolder:
    """A folder with val2017.

    Attributes:
        root: as given, resolved.
        counts: images, annotations and categories of the file.
        sha256: of the annotation file.
        departure: how it differs from COCO's own val2017; '' if it does not.
    """

    root: str
    counts: dict[str, int]
    sha256: str
    departure: str

    def options(self, part: str = 'test') -> list[str]:
        """Return the config overrides that use this folder in one part of a run."""
        split = 'train2017' if part == 'train' else IMAGES
        file = f'annotations/instances_{split}.json'
        loader = f'{part}_dataloader.dataset'
        options = [
            f'{loader}.data_root={self.root}/',
            f'{loader}.ann_file={file}',
            f'{loader}.data_prefix.img={split}/',
        ]
        if part != 'train':
            options.append(f'{part}_evaluator.ann_file={self.root}/{file}')
        return options

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, ready for JSON."""
        return asdict(self)


def open_coco(root: str | Path) -> CocoFolder:
    """Look at a COCO folder.

    A part of val2017, or a file that was changed, is no error: ``departure`` says it,
    and so does every table made from it.

    Raises:
        UserError: it is no such folder, or images of the file are not there.
    """
    folder = Path(root).resolve()
    file, images = folder / ANNOTATIONS, folder / IMAGES
    missing = [f'{p}/' for p in (IMAGES,) if not (folder / p).is_dir()]
    missing += [ANNOTATIONS] if not file.is_file() else []
    if missing:
        raise UserError(
            f'--coco {str(root)!r} is not a COCO folder: expected {IMAGES}/ and '
            f'{ANNOTATIONS} in it; {" and ".join(missing)} '
            f'{"is" if len(missing) == 1 else "are"} not there.'
        )
    annotations = read_annotations(file)
    content = annotations.content
    truth = ground_truth(content, str(file))
    names = [str(one.get('file_name', '')) for one in content['images']]
    absent = find_missing(images, names).missing
    if absent:
        first = sorted(absent)[0]
        raise UserError(
            f'{len(absent)} of {len(names)} images of {file} are not in {images}; the '
            f'first is {first!r}. Complete the folder, or use a file of its images.'
        )
    counts = {
        'images': len(truth.image_ids),
        'annotations': len(content.get('annotations') or ()),
        'categories': len(truth.category_ids),
    }
    usual = list(truth.category_ids) == CATEGORY_IDS
    return CocoFolder(
        str(folder), counts, annotations.sha256, _departure(counts, usual)
    )


def _departure(counts: dict[str, int], usual: bool) -> str:
    if counts == WHOLE and usual:
        return ''
    if 0 < counts['images'] < WHOLE['images'] and usual:
        return f'a subset: {counts["images"]} of {WHOLE["images"]} images'
    stated = ', '.join(f'{value} {key}' for key, value in counts.items())
    expected = ', '.join(f'{value} {key}' for key, value in WHOLE.items())
    return f"not COCO's val2017: {stated} instead of {expected}, or other categories"
