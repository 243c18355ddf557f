"""Adding an attention mechanism takes a layer, a row of the catalogue and a config."""

import json
import os
import shutil
import subprocess

from tests.conftest import PYTHON, REPOSITORY

LAYER = '''
"""Scale each channel by its mean times a learned number."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from eca_mmdet.models.attention.gate import ChannelGate


@MODELS.register_module()
class Toy(ChannelGate):
    """Scale channels by sigma(w y), w and the mean y of the channel."""

    _abbr_ = 'toy'

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(in_channels))

    def factors(self, pooled: Tensor) -> Tensor:
        """(N, C) means to (N, C) factors in (0, 1)."""
        return (self.weight * pooled).sigmoid()
'''
ROW = """
    Mechanism('toy', 'Toy', {'type': 'Toy'}, 'toy', 'toy', 'C', 'this test'),
)
"""
CONFIG = """
_base_ = '../_base_/models/new_gates.py'

model = dict(backbone=dict(attention=dict(type='Toy')))
"""
SCRIPT = """
import contextlib, io, json, sys
import eca_mmdet
from eca_mmdet.cli import main

def run(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(word) for word in words]) == 0
    return json.loads(out.getvalue())

def build(**changes):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from eca_mmdet.catalog.configs import resolve_config
    config = Config.fromfile(resolve_config('mask-rcnn_toy-r50_fpn_4xb2-1x_coco'))
    return MODELS.build({**config.model.backbone, **changes})

words = ('--channels', 8, '--size', 5, 5, '--rounds', 1, '--json')
(row,) = run('attention', 'list', 'toy', *words)['rows']
import torch
torch.save(build(init_cfg=None).state_dict(), 'toy.pth')
inspected = run('weights', 'inspect', 'toy.pth', '--json')
init = dict(type='ECAPretrained', checkpoint='toy.pth')
fit = eca_mmdet.ECAPretrained('toy.pth').fit(build(init_cfg=init))
where = eca_mmdet.__file__, eca_mmdet.Toy.__module__
print(json.dumps([*where, row, inspected, fit.line]))
"""


def test_a_new_mechanism_is_known_everywhere(tmp_path):
    for folder in ('eca_mmdet', 'configs'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=ignored)
    package = tmp_path / 'eca_mmdet'
    (package / 'models' / 'attention' / 'toy.py').write_text(LAYER)
    table = package / 'catalog' / 'mechanisms.py'
    before, end, after = table.read_text().partition('\n)\n"""In the order')
    assert end
    table.write_text(before + ROW.rstrip() + end.removeprefix('\n)') + after)
    name = 'mask-rcnn_toy-r50_fpn_4xb2-1x_coco.py'
    (tmp_path / 'configs' / 'mask_rcnn' / name).write_text(CONFIG)
    done = subprocess.run(
        [PYTHON, '-c', SCRIPT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    path, module, row, inspected, line = json.loads(done.stdout.splitlines()[-1])
    assert path == str(package / '__init__.py')
    assert module == 'eca_mmdet.models.attention.toy'
    assert (row['name'], row['parameters'], row['interacts']) == ('Toy', 8, False)
    assert inspected['network'] == 'Toy-ResNet-50' and inspected['gates'] == 16
    assert '318/318 tensors, 16/16 gates from' in line
