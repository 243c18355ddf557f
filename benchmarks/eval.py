"""Time and memory of `eca-mmdet eval`, beside hotcoco alone and pycocotools.

    python benchmarks/eval.py [--images 5000] [--masks] [--pycocotools] [--ultrafast]

Each reads the same two generated files in a process of its own, from its start to the
numbers; hotcoco and pycocotools as their documentation shows. Printed are seconds, CPU
seconds and the highest resident memory, the ratios to hotcoco, and whether the 12
numbers equal pycocotools' to the last bit. hotcoco's own means differ in the last one.
pycocotools is measured for up to 5,000 images unless it is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eval_data import write_data
from eval_memory import highest_mib, write_result_file

DETECTIONS = 100
MOST_IMAGES = 5000


def main(argv: list[str] | None = None) -> int:
    """Run all sides and print them; 1 if the numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--images', type=int, default=MOST_IMAGES, help='with 100 detections each')
    add('--masks', action='store_true', help='masks instead of boxes')
    add('--pycocotools', action='store_true', help='also of more than 5,000 images')
    add('--ultrafast', action='store_true', help='also ultrafast-pycocotools')
    add('--side', choices=SIDES, help=argparse.SUPPRESS)
    add('--folder', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    task = 'segm' if args.masks else 'bbox'
    if args.side:
        print(json.dumps(measure(args.side, task, args.folder)))
        return 0
    sides = list(SIDES)
    if args.images > MOST_IMAGES and not args.pycocotools:
        sides.remove('pycocotools')
    if not args.ultrafast:
        sides.remove('ultrafast')
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(args.images, DETECTIONS, task, folder)
        size = write_result_file(task, folder)
        for path in folder.glob('*.npz'):
            path.unlink()
        print(
            f'{args.images} images x {DETECTIONS} {"masks" if args.masks else "boxes"},'
            f' {size >> 20} MiB of results'
        )
        found = {side: start(side, task, folder) for side in sides}
    least = found['hotcoco']
    for side, one in found.items():
        columns = (
            f'{one[key]:9.2f} {unit} ({one[key] / least[key]:5.2f})'
            for key, unit in (
                ('seconds', 's'),
                ('cpu_seconds', 's CPU'),
                ('mib', 'MiB'),
            )
        )
        print(f'  {side:<12}{"".join(columns)}')
    ours = found['eca-mmdet']['numbers']
    pairs = zip(ours, least['numbers'], strict=True)
    most = max(abs(one - other) for one, other in pairs)
    print(f'  (ratios to hotcoco alone); its numbers differ by {most:.1e} at most')
    if args.ultrafast:
        pairs = zip(ours, found['ultrafast']['numbers'], strict=True)
        differ = max(abs(one - other) for one, other in pairs)
        print(f"  ultrafast-pycocotools' numbers differ by {differ:.1e} at most")
    if 'pycocotools' not in found:
        return 0 if most < 1e-12 else 1
    equal = ours == found['pycocotools']['numbers']
    print(f'  the 12 numbers equal pycocotools, to the last bit: {equal}')
    return 0 if equal else 1


def start(side: str, task: str, folder: Path) -> dict[str, Any]:
    """Run one side in a process of its own and return what it measured."""
    command = [sys.executable, __file__, '--side', side, '--folder', str(folder)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *(['--masks'] if task == 'segm' else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        env={**os.environ, 'ECA_MMDET_CACHE': str(folder / 'cache')},
    )
    seconds = time.perf_counter() - began
    return {'seconds': seconds, **json.loads(done.stdout.splitlines()[-1])}


def measure(side: str, task: str, folder: Path) -> dict[str, Any]:
    """Evaluate in this process; return its CPU time, memory and numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = SIDES[side](task, folder)
    cpu_seconds = time.process_time()
    return {'cpu_seconds': cpu_seconds, 'mib': highest_mib(), 'numbers': numbers}


def run_hotcoco(task: str, folder: Path) -> list[float]:
    """Evaluate with hotcoco alone."""
    from hotcoco import COCO, COCOeval

    return run_evaluator(COCO, COCOeval, task, folder)


def run_pycocotools(task: str, folder: Path) -> list[float]:
    """Evaluate with pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return run_evaluator(COCO, COCOeval, task, folder)


def run_ultrafast(task: str, folder: Path) -> list[float]:
    """Evaluate with ultrafast-pycocotools."""
    from ultrafast_pycocotools.coco import COCO
    from ultrafast_pycocotools.cocoeval import COCOeval

    return run_evaluator(COCO, COCOeval, task, folder)


def run_evaluator(coco: Any, coco_eval: Any, task: str, folder: Path) -> list[float]:
    """Return the 12 numbers of an evaluator with the interface of pycocotools."""
    truth = coco(str(folder / 'A.json'))
    evaluator = coco_eval(truth, truth.loadRes(str(folder / 'R.json')), task)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def run_command(task: str, folder: Path) -> list[float]:
    """Run the command; its numbers are those of metrics.json."""
    from eca_mmdet import cli

    words = ['--ann', folder / 'A.json', '--results', folder / 'R.json']
    code = cli.main(['eval', *map(str, [*words, '--out', folder / 'out'])])
    assert code == 0
    record = json.loads((folder / 'out' / 'metrics.json').read_text())
    found = record['results'][task]['metrics'].values()
    return [-1.0 if value is None else value for value in found]


SIDES = {
    'hotcoco': run_hotcoco,
    'eca-mmdet': run_command,
    'pycocotools': run_pycocotools,
    'ultrafast': run_ultrafast,
}


if __name__ == '__main__':
    sys.exit(main())
