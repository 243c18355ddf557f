"""Shared fixtures: no network, few threads, mmdet's scope."""

import collections
import functools
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

# Rounding depends on the number of threads: ECA_MMDET_TEST_THREADS=2 tests with two.
os.environ['OMP_NUM_THREADS'] = os.environ.get('ECA_MMDET_TEST_THREADS', '1')
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['ECA_MMDET_CACHE'] = ''

import hypothesis
import pytest
import torch

import eca_mmdet
from tests.support.web_server import Server

REPOSITORY = Path(__file__).resolve().parents[1]
# The same examples at every run, so that a change is not blamed for what was there.
# ECA_MMDET_FAULTS=10000 looks for new ones.
hypothesis.settings.register_profile(
    'repeatable', derandomize='ECA_MMDET_FAULTS' not in os.environ
)
hypothesis.settings.load_profile('repeatable')
COCO_TINY = REPOSITORY.parent / 'shared' / 'data' / 'coco_tiny'


def pytest_collection_modifyitems(items):
    """Mark the later cases of a sweep as slow."""
    cases = collections.Counter()
    for item in items:
        if sweep := item.get_closest_marker('sweep'):
            test = item.nodeid.partition('[')[0]
            cases[test] += 1
            if cases[test] > sweep.kwargs.get('fast', 1):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))


@pytest.fixture(scope='session', autouse=True)
def metafiles_read_once():
    """For each config that inherits one of mmdet's, mmengine reads 400 metafiles."""
    from mmengine.config import utils

    utils.load = functools.cache(utils.load)


@pytest.fixture(scope='session')
def mmdet_ready():
    """mmdet imported, our classes registered, default scope set."""
    eca_mmdet.registration.register()
    from mmengine.registry import DefaultScope, init_default_scope

    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmdet')


@pytest.fixture
def coco_tiny():
    if not COCO_TINY.is_dir():
        pytest.skip(f'the 80 real COCO images are not here: {COCO_TINY}')
    return COCO_TINY


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A small generated data set: 6 training and 4 held-out images of 96 px."""
    from eca_mmdet.datasets.shapes import write_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    return write_shapes(root, sizes={'train': 6, 'val': 4}, side=96)


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    from eca_mmdet import cli

    def call(*argv):
        code = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def supplied_operators(mmdet_ready):
    """mmcv's operators come from torchvision; skips where mmcv has compiled ones."""
    import mmcv._ext

    from eca_mmdet.mmcv_ops import extension as mmcv_ext

    if not mmcv_ext.is_supplied():
        pytest.skip(f'mmcv has its own extension: {mmcv._ext.__file__}')


@pytest.fixture(scope='session')
def ranks(tmp_path_factory):
    """Starts processes of jobs."""
    from tests.support.ranks import Server

    server = Server(tmp_path_factory.mktemp('ranks'))
    yield server
    server.close()


@pytest.fixture(scope='session')
def train(ranks):
    """Starts tiny trainings."""
    from tests.support import training_runs

    return functools.partial(training_runs.train, ranks)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch'


@pytest.fixture
def write(tmp_path):
    """Write an annotation file's content under a name, and return the path."""

    def to(content, name='ann.json'):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return to


@pytest.fixture
def log(mmdet_ready, monkeypatch):
    """Lines that reach mmengine's logger: (level, text)."""
    lines = []
    logger = SimpleNamespace(log=lambda level, text: lines.append((level, text)))
    monkeypatch.setattr(
        'eca_mmdet.checkpoints.initializer.MMLogger',
        SimpleNamespace(get_current_instance=lambda: logger),
    )
    return lines


@pytest.fixture
def legacy(mmdet_ready):
    """MMDetection v1's behaviours, registered."""
    import eca_mmdet.models.legacy

    return eca_mmdet.models.legacy


def listen_to_interrupts():
    """For ``preexec_fn``: a shell starts jobs in the background deaf to ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


PYTHON = sys.executable
