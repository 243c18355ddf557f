"""The parts that make an interrupted training exact, one by one."""

import errno
import itertools
import os
import pickle
import random
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eca_mmdet.utils.errors import RunError, UserError, WeightsError
from tests.conftest import PYTHON

pytestmark = pytest.mark.openmmlab


@pytest.fixture(scope='module')
def parts(mmdet_ready):
    from eca_mmdet.engine import checkpointing, data_loading, failures

    class Parts:
        pass

    for module in (checkpointing, data_loading, failures):
        for name in dir(module):
            setattr(Parts, name, getattr(module, name))
    return Parts


class Images:
    """A data set of which samplers ask no more than its length."""

    metainfo = {}

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def get_data_info(self, index):
        return {'width': 10 + index % 3, 'height': 11}


def drawn(seed, *arguments):
    seed(*arguments)
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_numbers_depend_on_the_place_alone(parts):
    """Each generator, each argument; and nothing of what was drawn before."""
    places = list(itertools.product((0, 1, -5, 2**40), (0, 1), (0, 1, 2)))
    seen = set()
    for seed in (parts.seed_step, parts.seed_sample):
        for place in places:
            numbers = drawn(seed, *place)
            torch.rand(7), random.random(), np.random.rand(3)
            assert drawn(seed, *place) == numbers
            seen.update(numbers)
    assert len(seen) == 3 * 2 * len(places)  # no two alike, of any generator


@pytest.mark.parametrize('kind', ['DefaultSampler', 'InfiniteSampler'])
@pytest.mark.parametrize('inner', [None, 'AspectRatioBatchSampler'])
@pytest.mark.parametrize('length', [1, 5, 12])
def test_batches_go_on_from_any_place(parts, kind, inner, length):
    """From (epoch, batches) on they are those of the whole stream, draws included."""
    from mmengine.registry import DATA_SAMPLERS

    def stream(epoch, batches, endless):
        images = Images(length)
        sampler = DATA_SAMPLERS.build(dict(type=kind, dataset=images, seed=3))
        sampler.dataset = images
        cfg = inner and dict(type=inner)
        replayed = parts.ReplayedBatchSampler(sampler, 2, cfg, endless=endless)
        replayed.start_at(epoch, batches)
        return replayed

    def words(batch):
        return [(int(draw), draw.epoch, draw.number) for draw in batch]

    whole = [words(one) for one in itertools.islice(stream(0, 0, True), 30)]
    assert len({pair for batch in whole for pair in [tuple(batch)]}) == 30
    for skip in (0, 1, 2, 7, 29):
        rest = itertools.islice(stream(0, skip, True), 30 - skip)
        assert [words(one) for one in rest] == whole[skip:]
    if kind == 'InfiniteSampler':
        return
    replayed = stream(0, 0, False)
    epochs = [[words(one) for one in replayed] for _ in range(3)]
    assert len(replayed) == len(epochs[0])
    assert [one for epoch in epochs for one in epoch] == whole[: sum(map(len, epochs))]
    assert sorted(i for batch in epochs[2] for i, _, _ in batch) == [*range(length)]
    for epoch, skip in ((1, 0), (2, len(epochs[0]) // 2), (1, len(epochs[0]))):
        replayed = stream(epoch, skip, False)
        iter(replayed), iter(replayed)  # PyTorch makes iterators that it never reads
        assert [words(one) for one in replayed] == epochs[epoch][skip:]
        if epoch == 1:
            assert [words(one) for one in replayed] == epochs[2]


def test_draws_of_two_processes_are_those_of_one(parts, monkeypatch):
    """Draw k of process r is draw 2k + r of a single process: the same augmentation."""
    from mmengine.dataset import DefaultSampler

    def draws(rank, processes, batch):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda: (rank, processes)
        )
        monkeypatch.setattr(
            'eca_mmdet.engine.data_loading.get_dist_info', lambda: (rank, processes)
        )
        sampler = DefaultSampler(Images(8), seed=1)
        return [
            sorted((int(one), one.number) for one in batch)
            for batch in parts.ReplayedBatchSampler(sampler, batch)
        ]

    single = draws(0, 1, 4)
    pairs = zip(draws(0, 2, 2), draws(1, 2, 2), strict=True)
    assert [sorted(a + b) for a, b in pairs] == single


def test_a_draw_is_its_index_and_travels(parts):
    draw = pickle.loads(pickle.dumps(parts.SampleIndex(7, 2, 31)))
    assert (draw, draw.epoch, draw.number, [0] * 7 + [1]) == (7, 2, 31, [0] * 7 + [1])
    assert [*range(9)][draw] == 7


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_accumulated_gradients_of_one_process_under_a_launcher(
    mmdet_ready, tmp_path, prefix
):
    """DDP wraps the model there; checkpoints of 0.1.0 hold the wrapper's names."""
    from mmengine.model import MMDistributedDataParallel
    from torch import distributed, nn

    from eca_mmdet.engine import loops

    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('gloo', rank=0, world_size=1, store=store)
    try:
        model = MMDistributedDataParallel(nn.Linear(2, 3))
        model(torch.ones(4, 2)).sum().backward()
        kept = {
            f'{prefix}{name}': one.grad.clone()
            for name, one in model.module.named_parameters()
        }
        assert set(kept) == {f'{prefix}weight', f'{prefix}bias'}
        model.zero_grad()
        loops.restore_gradients(model, kept)
        assert model.module.weight.grad.tolist() == [[4.0, 4.0]] * 3
        assert model.module.bias.grad.tolist() == [4.0] * 3
        wrong = {'weight': torch.ones(3, 2), 'bias': torch.ones(2)}
        with pytest.raises(RunError, match='gradients of bias'):
            loops.restore_gradients(model, wrong)
        with pytest.raises(RunError, match='gradients of fc.weight'):
            loops.restore_gradients(model, {'fc.weight': torch.ones(3, 2)})
    finally:
        distributed.destroy_process_group()


def checkpoint(path, step, **content):
    meta = {'epoch': 0, 'iter': step, 'seed': 0}
    whole = {'state_dict': {'a': torch.ones(3)}, 'optimizer': {}, 'meta': meta}
    torch.save(whole | content, path)
    return path


def test_find_checkpoint(parts, tmp_path):
    find = parts.find_checkpoint
    assert find(tmp_path) is None and find(tmp_path / 'none') is None
    old, new = (checkpoint(tmp_path / f'iter_{n}.pth', n) for n in (9, 10))
    found = find(tmp_path)  # no pointer: the one with most steps, not the last name
    assert (found.path, found.meta['iter']) == (new, 10)
    pointer = tmp_path / 'last_checkpoint'
    for text in (str(old), f'/moved/away/{old.name}', f'{old}\n'):
        pointer.write_text(text)
        assert find(tmp_path).path == old and find(tmp_path).note == ''
    for text in ('', '\0', 'nothing.pth', str(tmp_path)):
        pointer.write_text(text)
        assert find(tmp_path).path == new, text
    pointer.write_text(str(new))
    new.write_bytes(new.read_bytes()[:-200])
    found = find(tmp_path)
    assert found.path == old and f'{new} cannot be read' in found.note
    old.write_bytes(b'')
    with pytest.raises(WeightsError, match='no checkpoint in .* can be resumed from'):
        find(tmp_path)
    checkpoint(tmp_path / 'best_coco.pth', 4)
    assert find(tmp_path).meta['iter'] == 4


@pytest.mark.parametrize(
    'meta',
    [{}, {'epoch': 1}, 5, {'epoch': 'x', 'iter': 2}, {'epoch': 1, 'iter': -2}, None],
)
def test_no_checkpoint_of_a_training(parts, tmp_path, meta):
    path = checkpoint(tmp_path / 'a.pth', 2, **({} if meta is None else {'meta': meta}))
    message = 'does not say at which step'
    if meta is None:  # a published file
        content = torch.load(path, weights_only=True)
        del content['optimizer']
        torch.save(content, path)
        message = 'no optimizer state'
    with pytest.raises(WeightsError, match=message):
        parts.read_meta(path)


def test_files_are_removed_after_their_successor_is_written(parts, tmp_path):
    """A write that fails removes nothing; one that succeeds removes what is due."""
    files = parts.WholeFiles()
    old, new = tmp_path / 'iter_1.pth', tmp_path / 'iter_2.pth'
    files.put(b'one', old)
    parts.WholeFiles().remove(str(old))
    assert old.read_bytes() == b'one'
    (tmp_path / 'iter_2.pth').mkdir()
    with pytest.raises(OSError):
        parts.WholeFiles().put(b'two', new)
    assert old.read_bytes() == b'one' and os.listdir(new) == []
    new.rmdir()
    parts.WholeFiles().put(b'two', new)
    assert sorted(os.listdir(tmp_path)) == ['iter_2.pth']
    # A file that is written anew under its own name stays.
    files.remove(str(new))
    files.put(b'three', new)
    assert new.read_bytes() == b'three'


def test_the_lock_of_a_folder(parts, tmp_path):
    folder = tmp_path / 'new' / 'work'
    program = (
        'import sys; from eca_mmdet.engine.checkpointing import locked_folder\n'
        'with locked_folder(sys.argv[1]) as left: print(repr(left)); exec(sys.argv[2])'
    )

    def other(then='pass'):
        words = [PYTHON, '-c', program, str(folder), then]
        return subprocess.run(words, capture_output=True, text=True)

    with parts.locked_folder(folder) as left:
        assert left == ''
        failed = other()
        assert failed.returncode == 1
        assert f'a training that runs now (process {os.getpid()} on ' in failed.stderr
    assert other().stdout == "''\n"
    assert other('import os; os.kill(os.getpid(), 9)').returncode == -signal.SIGKILL
    half_written = [folder / f'.{name}.x.partial' for name in ('a.pth', 'other')]
    for path in half_written:
        path.touch()
    with parts.locked_folder(folder) as left:
        assert left.startswith('process ')
    assert [path.exists() for path in half_written] == [False, True]
    half_written[1].unlink()
    for text in ('[]', '{}', '{"process": "x"}', '\0', 'é'):
        (folder / '.training').write_text(text, encoding='latin-1')
        with parts.locked_folder(folder) as left:
            assert left == ''
    (folder / '.training').unlink(missing_ok=True)
    folder.rmdir()
    with pytest.raises(KeyError), parts.locked_folder(folder):
        raise KeyError
    assert not folder.exists()  # nor is anything left of a training that was refused
    with parts.locked_folder(folder):
        (folder / 'a').touch()
    assert os.listdir(folder) == ['a']
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='nothing can be written to the work folder'):
        with parts.locked_folder(tmp_path / 'file'):
            pass


def test_file_systems_without_locks(parts, tmp_path, monkeypatch):
    """Lustre and some NFS know none: no protection is no reason to refuse."""
    import fcntl

    def lockf(*_):
        raise OSError(says[-1], os.strerror(says[-1]))

    says = []
    monkeypatch.setattr(fcntl, 'lockf', lockf)
    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        says.append(number)
        with parts.locked_folder(tmp_path):
            pass
    says.append(errno.EIO)
    with pytest.raises(UserError, match='nothing can be written'):
        with parts.locked_folder(tmp_path):
            pass


def test_signals_wait_for_the_step_to_end(parts, capsys):
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        with parts.Interrupts() as interrupts:
            with pytest.raises(parts.Interrupted) as stop:
                os.kill(os.getpid(), number)
            assert stop.value.signal == number
        with parts.Interrupts() as interrupts:
            interrupts.at_once = False
            interrupts.stop_if_asked()
            os.kill(os.getpid(), number)  # nothing yet
            assert 'stopping when this step' in capsys.readouterr().err
            with pytest.raises(parts.Interrupted):
                interrupts.stop_if_asked()
            with pytest.raises(parts.Interrupted):  # a second one does not wait
                os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_while_processes_talk_is_of_the_next_step(parts, monkeypatch):
    """What comes after a process has told the others is neither lost nor its own."""
    from mmengine.optim import OptimWrapper

    from eca_mmdet.engine import nan_guard as finite

    interrupts = parts.Interrupts()
    interrupts.at_once = False
    weight = torch.nn.Parameter(torch.ones(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=0.1))
    guard = finite.GuardedOptimizer(
        SimpleNamespace(optim_wrapper=wrapper, interrupts=interrupts)
    )

    def late_signal(flags, operation):
        if not interrupts.requested:
            interrupts._handle(signal.SIGINT, None)

    monkeypatch.setattr(finite, 'is_distributed', lambda: True)
    monkeypatch.setattr(torch.distributed, 'all_reduce', late_signal)
    guard.update_params(weight.sum())
    interrupts.stop_if_agreed()  # not this step: the others do not know
    guard.update_params(weight.sum())
    with pytest.raises(parts.Interrupted) as stop:
        interrupts.stop_if_agreed()
    assert stop.value.signal == signal.SIGINT


def test_a_signal_in_the_middle_of_a_fork_is_kept():
    """Python prints and drops what is raised where logging gives back its locks."""
    program = (
        'import os, signal\n'
        'os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), 2))\n'
        'from eca_mmdet.engine.failures import Interrupted, Interrupts\n'
        'with Interrupts() as interrupts:\n'
        '    if not os.fork():\n'
        '        os._exit(0)\n'
        '    try:\n'
        '        interrupts.stop_if_asked()\n'
        '    except Interrupted as stop:\n'
        '        print("kept", stop.signal)\n'
    )
    words = [PYTHON, '-c', program]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'kept 2\n'), done.stderr
    assert 'ignored' not in done.stderr


def test_workers_leave_signals_to_the_main_process(parts):
    with parts.Interrupts():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    ('train_cfg', 'loop'),
    [
        (dict(by_epoch=True, max_epochs=1), 'ExactEpochLoop'),
        (dict(by_epoch=False, max_iters=1), 'ExactIterLoop'),
        (dict(type='EpochBasedTrainLoop', max_epochs=1), 'ExactEpochLoop'),
        (dict(type='IterBasedTrainLoop', max_iters=1), 'ExactIterLoop'),
        (dict(type='OddLoop'), 'OddLoop'),
    ],
)
def test_which_loops_are_exact(parts, monkeypatch, train_cfg, loop):
    """mmengine's two, however the config spells them; others are told of."""
    from mmengine.registry import LOOPS
    from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop

    from eca_mmdet.engine.runner import ResumableRunner

    class OddLoop(BaseLoop):
        def __init__(self, runner, dataloader):
            pass

        def run(self):
            pass

    for exact in (EpochBasedTrainLoop, IterBasedTrainLoop):
        monkeypatch.setattr(exact, '__init__', lambda *_, **__: None)
    monkeypatch.setattr(
        'eca_mmdet.engine.loops.ExactLoop._build',
        lambda *_, **__: SimpleNamespace(dataset=0),
    )
    LOOPS.register_module(name='OddLoop', module=OddLoop, force=True)
    told = []
    runner = ResumableRunner.__new__(ResumableRunner)
    runner._train_dataloader = {}
    monkeypatch.setattr(
        ResumableRunner, 'logger', SimpleNamespace(warning=told.append), raising=False
    )
    assert type(runner.build_train_loop(train_cfg)).__name__ == loop
    assert bool(told) == (loop == 'OddLoop')
