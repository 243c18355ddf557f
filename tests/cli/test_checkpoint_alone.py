"""``test`` and ``export`` of a checkpoint, without naming its config."""

import ast
import json
import os
import pickle

import pytest
import torch

from eca_mmdet.cli.export import _paths
from tests.support import detectors

CLASSES = ('circle', 'square', 'triangle')
MEMCACHED = {
    'backend': 'memcached',
    'server_list_cfg': '',
    'client_cfg': '',
    'sys_path': 'TMP',
}


class MakesFolder:
    """An object whose unpickling makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope='module')
def trained(mmdet_ready, shapes, tmp_path_factory):
    """What a training of the demo's classes leaves: a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    folder.mkdir()
    cfg, model = detectors.build('faster', shapes)
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].dataset.metainfo.classes = CLASSES
        cfg[f'{loader}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.work_dir = 'elsewhere'  # of the machine that trained
    cfg.dump(str(folder / 'config.py'))
    meta = {'cfg': cfg.pretty_text, 'dataset_meta': {'classes': CLASSES}}
    meta['experiment_name'] = 'shapes_20260102_030405'
    content = {'state_dict': model.state_dict(), 'meta': meta}
    torch.save(content, folder / 'epoch_2.pth')
    (folder / 'last_checkpoint').write_text('epoch_2.pth')
    return folder, cfg, content


@pytest.fixture
def saved(trained, tmp_path):
    """Write the checkpoint with entries of its config changed."""

    def write(**changes):
        _, cfg, content = trained
        cfg = type(cfg)(cfg.to_dict())
        cfg.merge_from_dict({key.replace('__', '.'): v for key, v in changes.items()})
        path = tmp_path / 'changed.pth'
        meta = content['meta'] | {'cfg': cfg.pretty_text}
        torch.save(content | {'meta': meta}, path)
        return path

    return write


def test_test_of_a_folder_equals_that_with_a_config(
    trained, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run, *_ = trained
    code, out, err = command('test', run, '--json')
    assert code == 0, err
    # The checkpoint after an option: an argument of its own once.
    words = ('--work-dir', tmp_path / 'own', run / 'epoch_2.pth', '--json')
    code, expected, err = command('test', run / 'config.py', *words)
    assert code == 0, err
    times = ('time', 'data_time')
    metrics, reference = (
        {k: v for k, v in json.loads(text).items() if k not in times}
        for text in (out, expected)
    )
    assert metrics == reference and 'coco/bbox_AP' in metrics
    # Beside the training, where report looks.
    (record,) = run.glob('test/*/metrics.json')
    assert not (tmp_path / 'work_dirs').exists()
    assert json.loads(record.read_text())['config'] == 'shapes'
    assert (run / 'test' / 'shapes.py').is_file()
    assert (run / 'epoch_2.pth').stat().st_size > 10_000
    code, *_ = command('report', run, '--no-model', '--examples', '0')
    assert code == 0
    assert record.parent.name in (run / 'report.html').read_text()


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'test_evaluator__type': 'DumpDetResults'}, "has 'DumpDetResults' as test_ev"),
        ({'test_dataloader__dataset__type': 'mmengine.dump'}, "type='mmengine.dump'"),
        ({'test_dataloader__sampler__type': 'os.system'}, "type='os.system'"),
        ({'test_evaluator': 5}, 'has 5 as test_ev'),
        # mmengine unpickles these two files.
        ({'test_dataloader__dataset__proposal_file': 'TMP/a.pkl'}, 'has proposal_file'),
        (
            {
                'test_dataloader__dataset__type': 'RefCocoDataset',
                'test_dataloader__dataset__split_file': 'TMP/a.pkl',
            },
            'has a RefCocoDataset',
        ),
        (
            {
                'test_dataloader__dataset__type': 'CrowdHumanDataset',
                'test_dataloader__dataset__extra_ann_file': 'TMP/written',
            },
            'has a CrowdHumanDataset',
        ),
        # It imports a module from sys_path.
        ({'test_dataloader__dataset__backend_args': MEMCACHED}, 'has backend_args'),
        (
            {'test_dataloader__dataset__pipeline__0__backend_args': MEMCACHED},
            'has backend_args',
        ),
    ],
)
def test_a_config_that_could_do_more_than_test_is_refused(
    changes, message, saved, command, tmp_path
):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(MakesFolder(tmp_path / 'written')))
    (tmp_path / 'mc.py').write_text('import os; os.mkdir(__file__ + "/../written")')
    changes = ast.literal_eval(repr(changes).replace('TMP', str(tmp_path)))
    path = saved(**changes)
    code, _, err = command('test', path, '--work-dir', tmp_path / 'w')
    assert code == 2 and message in err
    assert not (tmp_path / 'w').exists() and not (tmp_path / 'written').exists()


def test_predict_imports_nothing_that_the_checkpoint_names(saved, command, tmp_path):
    path = saved(test_dataloader__dataset__pipeline__0__backend_args=MEMCACHED)
    (tmp_path / 'a.png').touch()
    code, _, err = command('predict', path, tmp_path / 'a.png')
    assert code == 2 and 'has backend_args' in err


def test_nothing_that_writes_comes_from_the_checkpoint(
    saved, command, tmp_path, monkeypatch
):
    written = tmp_path / 'written'
    (tmp_path / 'foreign_package.py').write_text(
        f'import os; os.mkdir({str(written)!r})'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = saved(
        test_evaluator__type='foreign_package.CocoTableMetric',
        test_evaluator__outfile_prefix=str(written / 'results'),
        test_evaluator__collect_dir=str(written),  # removed after several processes
        custom_hooks=[{'type': 'LoggerHook', 'out_dir': str(written)}],
        visualizer={'type': 'DetLocalVisualizer', 'save_dir': str(written)},
    )
    code, _, err = command('test', path, '--work-dir', tmp_path / 'w')
    assert code == 0, err
    assert not written.exists()
    assert list(tmp_path.glob('w/*/metrics.json'))


def test_a_checkpoint_without_a_config_says_how_to_name_it(trained, command, tmp_path):
    torch.save(trained[2]['state_dict'], tmp_path / 'plain.pth')
    code, _, err = command('test', tmp_path / 'plain.pth')
    assert code == 2
    assert 'eca-mmdet test CONFIG CHECKPOINT. [checkpoint-incomplete]' in err


@pytest.mark.parametrize(
    'words, expected',
    [
        (['run/a.pth'], (None, 'run/a.pth', 'run/a.onnx')),
        (['run/a.pth', 'b.onnx'], (None, 'run/a.pth', 'b.onnx')),
        (['c.py', 'run/a.pth'], ('c.py', 'run/a.pth', 'run/a.onnx')),
        (['c.py', 'run/a.pth', 'b.ONNX'], ('c.py', 'run/a.pth', 'b.ONNX')),
        (['https://x.org/a.pth'], (None, 'https://x.org/a.pth', 'a.onnx')),
        (['{run}'], (None, '{run}/epoch_2.pth', '{run}/epoch_2.onnx')),
    ],
)
def test_paths_of_export(words, expected, trained):
    run = str(trained[0])
    words = [word.replace('{run}', run) for word in words]
    found = [path and path.replace(run, '{run}') for path in _paths(words, '.onnx')]
    assert tuple(found) == expected
