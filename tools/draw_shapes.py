"""Draw pictures of shapes with a COCO annotation file, to try the commands on.

    python tools/draw_shapes.py FOLDER [--images N] [--seed N]

FOLDER gets ``photos/*.png`` and ``annotations/photos.json``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eca_mmdet.datasets.shapes import write_shapes


def main(argv: list[str] | None = None) -> int:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--images', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    try:
        root = write_shapes(args.folder, args.seed, sizes={'train': args.images})
    except FileExistsError:
        print(f'{args.folder} exists, and nothing is overwritten.', file=sys.stderr)
        return 2
    (root / 'train').rename(root / 'photos')
    (root / 'annotations' / 'train.json').rename(root / 'annotations' / 'photos.json')
    return 0


if __name__ == '__main__':
    sys.exit(main())
