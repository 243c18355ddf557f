"""A command opens, hashes and deserialises a checkpoint once."""

import builtins
import io
import json
import pathlib

import pytest
import torch
from safetensors.torch import save_file

from eca_mmdet.checkpoints import io as reader
from eca_mmdet.checkpoints import reading
from eca_mmdet.utils.io import sha256_of
from tests.support import fine_tuning

pytestmark = pytest.mark.openmmlab


@pytest.fixture(scope='module')
def place(mmdet_ready, shapes, tmp_path_factory):
    """A config, and a checkpoint of its detector in both formats."""
    root = tmp_path_factory.mktemp('reads')
    cfg = fine_tuning.tiny('faster', shapes, root / 'work')
    cfg.dump(str(root / 'tiny.py'))
    state = fine_tuning.save(root / 'x.pth', cfg, ('circle', 'square', 'triangle'))
    save_file(state, root / 'x.safetensors')
    return root


@pytest.fixture
def reads(monkeypatch):
    """Names of the checkpoints that are opened, hashed and deserialised."""
    seen = {'opened': [], 'hashed': [], 'deserialised': []}

    def watch(kind, module, name):
        function = getattr(module, name)

        def watched(file, *args, **kwargs):
            path = pathlib.Path(str(getattr(file, 'name', file)))
            if path.suffix in ('.pth', '.safetensors') and args[:1] != ('wb',):
                seen[kind].append(path.name)
            return function(file, *args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    watch('opened', builtins, 'open')
    watch('opened', io, 'open')
    watch('hashed', reader, 'sha256_of')
    watch('deserialised', torch, 'load')
    watch('deserialised', reading, 'safe_open')
    return seen


WORDS = {
    'test': ('test', '{tiny}', '{file}', '--work-dir', '{out}'),
    'predict': ('predict', '{file}', '{image}', '--config', '{tiny}', '--out', '{out}'),
    'gates': (
        *('gates', '{file}', '--config', '{tiny}', '--images', '{image}'),
        *('--out', '{out}'),
    ),
    'inspect': ('weights', 'inspect', '{file}'),
    'convert': ('weights', 'convert', '{file}', '{out}.pth', '--to', 'authors'),
    'train': (
        *('train', '{tiny}', '--work-dir', '{out}', '--cfg-options'),
        *('load_from={file}', 'train_cfg.max_iters=1', 'default_hooks.checkpoint=None'),
    ),
}


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
@pytest.mark.parametrize('words', WORDS.values(), ids=WORDS)
def test_a_checkpoint_is_read_once(
    command, place, shapes, tmp_path, reads, words, ending
):
    file, out = place / f'x.{ending}', tmp_path / 'out'
    image = next((shapes / 'val').glob('*.png'))
    names = dict(tiny=place / 'tiny.py', file=file, out=out, image=image)
    code, _, error = command(*(word.format(**names) for word in words))
    assert code == 0, error
    assert reads == {kind: [file.name] for kind in reads}
    if words[0] == 'test':
        record = json.loads(next(out.rglob('metrics.json')).read_text())
        assert record['checkpoint'] == {'file': str(file), 'sha256': sha256_of(file)}
    assert not reader._in_use  # a long training does not keep what it has loaded


def test_weights_of_a_backbone_and_a_resumed_training(command, place, tmp_path, reads):
    from mmengine.config import Config

    state = torch.load(place / 'x.pth', weights_only=True)['state_dict']
    own = {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    torch.save(own, tmp_path / 'imagenet.pth')
    cfg = Config.fromfile(place / 'tiny.py')
    file = str(tmp_path / 'imagenet.pth')
    cfg.model.backbone.init_cfg = dict(type='ECAPretrained', checkpoint=file)
    cfg.dump(str(tmp_path / 'own.py'))
    reads['deserialised'].clear()
    words = ('train', tmp_path / 'own.py', '--work-dir', tmp_path / 'run')
    code, _, error = command(*words)
    assert code == 0, error
    assert reads['deserialised'] == ['imagenet.pth']
    longer = ('--resume', '--cfg-options', 'train_cfg.max_iters=2')
    code, _, error = command(*words, *longer)
    assert code == 0, error
    assert reads['deserialised'] == ['imagenet.pth', 'iter_1.pth']


def test_a_wrapped_detector_is_tested_predicts_and_starts_a_training(
    command, place, tmp_path
):
    from eca_mmdet.inference.detector import load_detector

    plain = torch.load(place / 'x.pth', weights_only=True)['state_dict']
    wrapped = {f'_orig_mod.model.{key}': value for key, value in plain.items()}
    wrapped |= {'criterion.weight': torch.zeros(2)}
    average = {f'module.{key}': value * 2 for key, value in plain.items()}
    torch.save({'state_dict': wrapped, 'ema': average}, tmp_path / 'w.ckpt')
    numbers = []
    for file in (place / 'x.pth', tmp_path / 'w.ckpt'):
        words = ('test', place / 'tiny.py', file, '--json', '--work-dir')
        code, out, error = command(*words, tmp_path / f'{file.stem}_test')
        assert code == 0, error
        numbers.append(json.loads(out))
        model = load_detector(file, str(place / 'tiny.py'), 'cpu').model
        own = model.state_dict()
        assert own.keys() == plain.keys()
        assert all(torch.equal(own[key], plain[key]) for key in plain)
    assert numbers[0] == numbers[1]
    words = (
        'train',
        place / 'tiny.py',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
    )
    rates = ('optim_wrapper.optimizer.lr=0', f'load_from={tmp_path / "w.ckpt"}')
    code, _, error = command(*words, *rates)
    assert code == 0, error
    written = torch.load(tmp_path / 'run' / 'iter_1.pth', weights_only=True)
    trained = written['state_dict']
    parameters = [key for key in plain if key.endswith(('weight', 'bias'))]
    assert all(torch.equal(trained[key], plain[key]) for key in parameters)
