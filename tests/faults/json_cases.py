"""Bad annotation and result files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults import corruption, hostile
from tests.faults.cases import NO_FILES, Case, sparse
from tests.support.broken_data import sound, write_images

CHECK = ('data', 'check', '{bad}')
FIX = ('data', 'check', '{bad}', '--fix', '{out}.json')
VAL = ('data', 'check', '{originals}/data/annotations/val.json', '--val', '{bad}')
IMAGES = ('data', 'check', '{bad}', '--images', '{in}/val2017')
EVAL = ('eval', '--ann', '{bad}', '--results', '{in}/r.json', '--out', '{out}')
GATES = (
    *('gates', '{originals}/checkpoint.pth', '--images', '{bad}'),
    *('--images-dir', '{in}/val2017', '--limit', '2', '--out', '{out}'),
)
REPRODUCE = (
    *('paper', 'reproduce', '--coco', '{in}', '--weights', '{originals}', '--dry-run'),
    *('--rows', 'faster:r50:eca', '--out', '{out}'),
)
PREFLIGHT = (
    *('test', '{originals}/tiny.py', '{originals}/checkpoint.pth', '--work-dir'),
    *('{out}', '--cfg-options', 'test_dataloader.dataset.ann_file={bad}'),
    *('test_dataloader.dataset.data_root=', 'test_evaluator.ann_file={bad}'),
    'test_dataloader.dataset.data_prefix.img={originals}/data/val/',
)
INIT = (
    *('init', '--train', '{bad}', '--val', '{bad}', '--images', '{in}/val2017'),
    *('--model', 'faster-rcnn_eca-r18-w16'),
)
SPLIT = ('data', 'split', '{bad}', '--val', '0.5', '--out', '{out}')
OF_ANNOTATIONS = (CHECK, FIX, EVAL, IMAGES, VAL, INIT, SPLIT)

RESULTS = (
    *('eval', '--ann', '{originals}/data/annotations/val.json'),
    *('--results', '{bad}', '--out', '{out}'),
)
SEGM = (*RESULTS, '--types', 'segm', '--backend', 'pycocotools')
ANALYSIS = (*RESULTS, '--analysis')
SECOND = (
    *('eval', '--ann', '{originals}/data/annotations/val.json', '--results'),
    *('{originals}/boxes.json', '{bad}', '--bootstrap', '5', '--out', '{out}'),
)
OF_RESULTS = (RESULTS, SEGM, SECOND, RESULTS)

ANNOTATED = 'annotations/instances_val2017.json'


def beside(folder: Path, originals: Path) -> None:
    """Make what annotation files are used with: results, and COCO's folders."""
    (folder / 'r.json').write_text('[]')
    write_images(folder / 'val2017')


def _annotations(name: str, content: Any, words: Any, **more: Any) -> Case:
    own = f'annotations/{name}-{"-".join(words[0].split("-")[:1])}'
    if words[2:3] in (('--fix',), ('--images',)):
        own += words[2]
    # init says what it finds before it refuses.
    one_line = words is not INIT
    return Case(own, ANNOTATED, content, words, setup=beside, one_line=one_line, **more)


def annotation_cases() -> Iterator[Case]:
    """Yield cases that need no original."""
    for name, content in NO_FILES.items():
        slow = name in ('fifo', 'endless')  # loading a config takes a second
        for words in (CHECK, EVAL, GATES, *[PREFLIGHT] * slow):
            yield _annotations(name, content, words)
    for index, (name, text) in enumerate(hostile.whole_files().items()):
        for words in (
            OF_ANNOTATIONS[index % 7],
            (GATES, INIT, SPLIT, REPRODUCE)[index % 4],
        ):
            yield _annotations(name, text, words)
    text = json.dumps(sound())
    for index, (name, raw) in enumerate(corruption.encoded(text)):
        words = OF_ANNOTATIONS[index % 7]
        yield _annotations(f'in-{name}', raw, words, codes=(0, 1, 2))
    for name, made in _geometry().items():
        for words in (FIX, EVAL):
            yield _annotations(name, json.dumps(made), words, codes=(0, 1, 2))
    yield _annotations('sparse-after-brace', sparse(100, b'{'), CHECK)
    yield _annotations('sparse-of-2-GiB', sparse(2), EVAL)


def changed_annotations(count: int, seed: str = '') -> Iterator[Case]:
    """Yield cases of sound files with one part changed, or damaged bytes."""
    raw = json.dumps(sound()).encode()
    made: list[tuple[str, Any, tuple[int, ...]]] = []
    made += [(n, t, (0, 1, 2)) for n, t in hostile.sampled(sound(), seed, count)]
    made += [(n, t, (1, 2)) for n, t in corruption.truncated(raw, seed, count // 8)]
    made += [(n, t, (0, 1, 2)) for n, t in corruption.flipped(raw, seed, count // 8)]
    made += [(n, t, (0, 1, 2)) for n, t in corruption.spliced(raw, seed, count // 8)]
    commands = (CHECK, FIX, EVAL, IMAGES, INIT, SPLIT, VAL, REPRODUCE, GATES, INIT)
    for index, (name, content, codes) in enumerate(made):
        words = commands[index % len(commands)]
        yield _annotations(f'{index}-{name}', content, words, codes=codes)


def _geometry() -> dict[str, Any]:
    """Sound JSON whose numbers are out of all proportion."""

    def one(size: tuple[int, int] = (64, 48), **changes: Any) -> dict[str, Any]:
        content = sound()
        width, height = size
        content['images'][0] |= {'width': width, 'height': height}
        for key, value in changes.items():
            if value is None:
                content['annotations'][0].pop(key)
            else:
                content['annotations'][0][key] = value
        return content

    def rle(height: int, width: int, counts: Any) -> dict[str, Any]:
        return {'size': [height, width], 'counts': counts}

    far = [[0, 0, 1e9, 0, 1e9, 1e9]]
    whole = 2**31 - 1
    bare = dict(bbox=None, area=None)
    return {
        'polygon-to-1e9': one(segmentation=far, **bare),
        'polygon-to-1e300': one(segmentation=[[0, 0, 1e300, 0, 9, 1e300]], **bare),
        'polygon-to-minus-1e18': one(segmentation=[[-1e18, 0, 9, 9, 0, -1e18]], **bare),
        'polygon-of-100000-points': one(segmentation=[[1.5, 2.5] * 100_000], **bare),
        'polygons-100000': one(segmentation=[[1, 2, 3, 4, 5, 6]] * 100_000, **bare),
        'image-of-2-to-31': one((whole, whole), segmentation=far, **bare),
        'image-of-2-to-31-box': one((whole, whole), area=None),
        'image-1-by-2-to-31': one((1, whole), segmentation=far, **bare),
        'image-of-1e6': one(
            (10**6, 10**6), segmentation=[[0, 0, 1e6, 0, 1e6, 1e6, 0, 1e6]], **bare
        ),
        'rle-1e9-by-1e9': one((0, 0), segmentation=rle(10**9, 10**9, [10**18]), **bare),
        'rle-text-1e9-by-1e9': one(
            (0, 0), segmentation=rle(10**9, 10**9, 'abc'), **bare
        ),
        'rle-2-to-70': one((0, 0), segmentation=rle(2**70, 2**70, 'abc'), **bare),
        'rle-list-2-to-70': one((0, 0), segmentation=rle(2**70, 1, [2**70]), **bare),
        'rle-2-to-33': one((0, 0), segmentation=rle(2**33, 1, [0, 2**33]), **bare),
        'rle-negative': one(segmentation=rle(-48, -64, [3072]), **bare),
        'rle-zero': one(segmentation=rle(0, 0, []), **bare),
        'rle-counts-overflow': one(segmentation=rle(48, 64, 'o' * 40 + '0'), **bare),
        'rle-counts-control': one(segmentation=rle(48, 64, '\x1b[31m'), **bare),
        'rle-counts-not-latin': one(segmentation=rle(48, 64, '龍' * 9), **bare),
        'rle-counts-long': one(segmentation=rle(48, 64, '1' * 1_000_000), **bare),
        'box-1e308': one(bbox=[1e308, 1e308, 1e308, 1e308], area=None),
        'box-minus-1e308': one(bbox=[-1e308, -1e308, 1e308, 1e308], area=None),
        'box-huge-integers': one(bbox=[10**300] * 4, area=None),
        'area-1e308': one(area=1e308),
        'area-10-to-400': one(area=10**400),
    }


def result_cases() -> Iterator[Case]:
    """Yield cases that need no original."""
    for name, content in NO_FILES.items():
        for words in (RESULTS, SECOND):
            yield results_case(f'{name}-{len(words)}', content, words)
    for index, (name, text) in enumerate(hostile.whole_files().items()):
        codes = (0,) if name in ('list',) else (2,)
        yield results_case(name, text, OF_RESULTS[index % 4], codes=codes)


def results_case(name: str, content: Any, words: Any, **more: Any) -> Case:
    return Case(f'results/{name}', 'r.json', content, words, **more)


def encoded_results(found: list[Any]) -> Iterator[Case]:
    """Yield a result file in other encodings."""
    for index, (name, raw) in enumerate(corruption.encoded(json.dumps(found))):
        yield results_case(f'in-{name}', raw, OF_RESULTS[index % 4], codes=(0, 2))


def changed_results(found: list[Any], count: int, seed: str = '') -> Iterator[Case]:
    """Yield cases of a sound file with one part changed, or damaged bytes."""
    raw = json.dumps(found).encode()
    made: list[tuple[str, Any, tuple[int, ...]]] = []
    made += [(n, t, (0, 2)) for n, t in hostile.sampled(found, seed, count)]
    made += [(n, t, (2,)) for n, t in corruption.truncated(raw, seed, count // 8)]
    made += [(n, t, (0, 2)) for n, t in corruption.flipped(raw, seed, count // 8)]
    made += [(n, t, (0, 2)) for n, t in corruption.spliced(raw, seed, count // 8)]
    for index, (name, content, codes) in enumerate(made):
        words = ANALYSIS if index % 25 == 24 else OF_RESULTS[index % 4]
        yield results_case(f'{index}-{name}', content, words, codes=codes)


def masks(found: list[Any]) -> dict[str, Any]:
    """Return result files whose masks lie, by what is wrong."""

    def one(size: Any, counts: Any) -> list[Any]:
        changed = [dict(entry) for entry in found]
        changed[0]['segmentation'] = {'size': size, 'counts': counts}
        return changed

    return {
        'rle-1e9-by-1e9': one([10**9, 10**9], 'abc'),
        'rle-2-to-70': one([2**70, 2**70], 'abc'),
        'rle-of-list-2-to-70': one([2**70, 2**70], [2**140]),
        'rle-size-of-text': one(['64', '64'], 'abc'),
        'rle-size-of-floats': one([64.0, 64.0], 'abc'),
        'rle-size-of-three': one([64, 64, 64], 'abc'),
        'rle-size-negative': one([-64, -64], 'abc'),
        'rle-swapped-and-wrong': one([63, 65], 'abc'),
        'rle-overflow': one([64, 64], 'oooooooooooooooo0'),
        'rle-negative-run': one([64, 64], '0I'),
        'rle-endless-count': one([64, 64], 'o' * 100_000),
        'rle-million-runs': one([64, 64], '11' * 500_000),
        'rle-empty': one([64, 64], ''),
        'rle-list-short': one([64, 64], [5]),
        'rle-list-negative': one([64, 64], [-5, 4101]),
        'rle-list-floats': one([64, 64], [4096.0]),
        'rle-list-huge': one([64, 64], [2**64, -(2**64) + 4096]),
        'rle-control': one([64, 64], '\x1b[31m'),
        'rle-not-latin': one([64, 64], '龍龍'),
        'rle-surrogate': one([64, 64], '\ud800'),
        'rle-nul': one([64, 64], 'a\0b'),
        'rle-million-zeros': one([64, 64], [0] * 1_000_000 + [4096]),
        'polygons-as-mask': one(None, None),
    }
