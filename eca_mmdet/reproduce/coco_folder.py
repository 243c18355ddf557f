"""The COCO folder that rows are measured on: val2017, whole or a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eca_mmdet.datasets.coco import read_annotations
from eca_mmdet.datasets.ground_truth import ground_truth
from eca_mmdet.datasets.images import find_missing
from eca_mmdet.utils.errors import UserError

WHOLE = {'images': 5000, 'annotations': 36781, 'categories': 80}
"""Counts of instances_val2017.json as COCO publishes it."""

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = [number for number in range(1, 91) if number not in _GAPS]
"""Ids of COCO's 80 categories."""


@dataclass(frozen=True)
class CocoFolder:
    """A folder with val2017."""

    root: str
    counts: dict[str, int]
    """Images, annotations and categories of the file."""
    sha256: str
    """Digest of the annotation file."""
    departure: str
    """How it differs from COCO's own val2017; '' if it does not."""

    def options(self, part: str = 'test') -> list[str]:
        """Return the config overrides that use this folder in one part of a run."""
        split = 'train2017' if part == 'train' else 'val2017'
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


def open_coco(root: str | Path, train: bool = False) -> CocoFolder:
    """Check a COCO folder with val2017/ and annotations/, and train2017/ for ``train``.

    A part of val2017, or a changed file, is no error: ``departure`` reports it, and so
    does every table made from it.
    """
    folder = Path(root).resolve()
    splits = ['val2017', *['train2017'] * train]
    parts = [n for s in splits for n in (s, f'annotations/instances_{s}.json')]
    missing = [name for name in parts if not (folder / name).exists()]
    if missing:
        raise UserError(
            f'--coco {str(root)!r} is not a COCO folder with {" and ".join(splits)}: '
            f'{", ".join(missing)} missing.',
            code='file-not-found',
        )
    file, images = folder / parts[1], folder / 'val2017'
    annotations = read_annotations(file)
    content = annotations.content
    truth = ground_truth(content, str(file))
    names = [str(image.get('file_name', '')) for image in content['images']]
    absent = sorted(find_missing(images, names).missing)
    if absent:
        raise UserError(
            f'{len(absent)} of {len(names)} images of {file} are not in {images}; the '
            f'first is {absent[0]!r}. Complete the folder.',
            code='no-images',
        )
    counts = {
        'images': len(truth.image_ids),
        'annotations': len(content.get('annotations') or ()),
        'categories': len(truth.category_ids),
    }
    departure = _departure(counts, list(truth.category_ids) == CATEGORY_IDS)
    return CocoFolder(str(folder), counts, annotations.sha256, departure)


def _departure(counts: dict[str, int], usual: bool) -> str:
    if counts == WHOLE and usual:
        return ''
    if 0 < counts['images'] < WHOLE['images'] and usual:
        return f'a subset: {counts["images"]} of {WHOLE["images"]} images'
    stated = ', '.join(f'{value} {key}' for key, value in counts.items())
    expected = ', '.join(f'{value} {key}' for key, value in WHOLE.items())
    return f"not COCO's val2017: {stated} instead of {expected}, or other categories"
