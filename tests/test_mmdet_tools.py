"""mmdet's own analysis tools on a run of the demo."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PYTHON

pytestmark = pytest.mark.slow


def tools():
    import mmdet

    return Path(mmdet.__file__).parent / '.mim' / 'tools'


def call(folder, script, *arguments):
    done = subprocess.run(
        [PYTHON, tools() / script, *arguments],
        cwd=folder,
        env={**os.environ, 'MPLBACKEND': 'agg'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The demo's run folder, with its results as mmdet writes them."""
    folder = tmp_path_factory.mktemp('demo') / 'run'
    words = [PYTHON, '-m', 'eca_mmdet.cli', 'demo', '--quick', '--out', folder]
    subprocess.run(words, check=True, capture_output=True)
    (config,) = folder.glob('train/*.py')
    (checkpoint,) = folder.glob('train/*.pth')
    prefix = 'test_evaluator.outfile_prefix=results'
    words = ['--out', 'results.pkl', '--work-dir', 'test', '--cfg-options', prefix]
    call(folder, 'test.py', config, checkpoint, *words)
    config.rename(folder / 'config.py')
    (log,) = folder.glob('train/*/vis_data/scalars.json')
    log.rename(folder / 'log.json')
    return folder


VAL = 'data/annotations/val.json'
CALLS = {  # arguments, and what the tool writes or prints
    # Its default style needs seaborn.
    'analyze_logs plot_curve log.json --keys loss --out loss.png --style default': (
        'loss.png'
    ),
    'analyze_logs cal_train_time log.json': 'average iter time',
    'analyze_results config.py results.pkl drawn --topk 1': 'drawn/bad',
    'browse_dataset config.py --output-dir browsed --not-show': 'browsed',
    f'coco_error_analysis results.segm.json errors --ann {VAL} --types bbox segm': (
        'errors/segm/segm-allclass-allarea.png'
    ),
    'confusion_matrix config.py results.pkl matrix': 'matrix/confusion_matrix.png',
    'eval_metric config.py results.pkl': 'coco/segm_mAP',
    'get_flops config.py --num-images 1': 'Flops: ',
    'get_flops_grounding config.py --shape 96': '',
}
"""Calls of the tools that need neither another package nor other data.

Left out: benchmark (psutil), test_robustness and robustness_eval (imagecorruptions),
coco_occluded_separated_recall (downloads its truth), fuse_results (fails on a misspelt
option of its own), optimize_anchors (YOLO), browse_grounding_* and mot (other data).
"""


@pytest.mark.parametrize('words', CALLS)
def test_analysis_tools(run, words):
    name, *arguments = words.split()
    printed = call(run, f'analysis_tools/{name}.py', *arguments)
    expected = CALLS[words]
    assert expected in printed or (run / expected).exists()


def test_split_of_mmdet(run, tmp_path):
    """It copies ``info`` and ``licenses``."""
    folder = tmp_path / 'annotations'
    folder.mkdir()
    text = (run / 'data' / 'annotations' / 'train.json').read_text()
    (folder / 'instances_train2017.json').write_text(text)
    where = ('--data-root', tmp_path, '--out-dir', tmp_path / 'out')
    call(run, 'misc/split_coco.py', *where, '--labeled-percent', '50', '--fold', '1')
    parts = [json.loads(file.read_text()) for file in (tmp_path / 'out').iterdir()]
    whole = json.loads(text)
    for part in parts:
        assert part['categories'] == whole['categories']
    assert sum(len(part['images']) for part in parts) == len(whole['images'])
