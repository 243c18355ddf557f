"""The soak: what a process holds is counted, and growth is told from noise."""

import gc
import itertools
import json
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.in_process import fresh_mmengine

sys.path.insert(0, str(REPOSITORY / 'benchmarks'))
import footprint
import soak

HOUR = 3600.0


def rows_of(memory, seconds=9.0, **counts):
    """Rounds of nine seconds: 200 are half an hour."""
    return [
        {'round': at, 'seconds': seconds * (at + 1), 'own_mib': value}
        | {name: one[at] for name, one in counts.items()}
        for at, value in enumerate(memory)
    ]


def grew(rows, limit=20.0):
    return [one.name for one in footprint.judge(rows, limit) if one.grew]


def noise(count, seed=0, size=3.0):
    return np.random.default_rng(seed).normal(0, size, count)


AT = np.arange(200)
FLAT = {
    'constant': 600.0 + 0 * AT,
    'noisy': 600 + noise(200),
    'three kinds of rounds in turn': 600 + 40.0 * (AT % 3),
    'warming up': 600 - 200 * np.exp(-AT / 8),
    'shrinking': 600 - 0.3 * AT,
    'one step': 600 + 5.0 * (AT > 90),
    'peaks': 600 + 400.0 * (AT % 17 == 16),
}
GROWING = {
    'steady': 600 + 0.2 * AT,  # 80 MiB an hour
    'under noise': 600 + 0.2 * AT + noise(200, 1),
    'in steps of 8 MiB': 600 + 8.0 * (AT // 40),
    'between kinds of rounds': 600 + 0.2 * AT + 40.0 * (AT % 3),
    'after a warm-up': 600 - 200 * np.exp(-AT / 8) + 0.2 * AT,
}


@pytest.mark.parametrize('memory', FLAT.values(), ids=FLAT)
def test_memory_that_does_not_grow(memory):
    assert grew(rows_of(memory)) == []


@pytest.mark.parametrize('memory', GROWING.values(), ids=GROWING)
def test_memory_that_grows(memory):
    assert grew(rows_of(memory)) == ['own_mib']


@pytest.mark.parametrize(('limit', 'expected'), [(79, ['own_mib']), (81, [])])
def test_the_limit_is_mib_an_hour(limit, expected):
    rows = rows_of(GROWING['steady'])  # 0.2 MiB in 9 s
    assert grew(rows, limit) == expected
    (told,) = footprint.judge(rows, limit)
    assert told.text.startswith('+80.0 MiB an hour (+0.200 a round), limit ')
    assert told.text.endswith('; 610 to 640 MiB after the warm-up')


def test_a_short_run_is_not_judged_by_one_step_of_the_allocator():
    """4 MiB in the last of two minutes are 200 an hour, and nothing."""
    memory = 600 + 4.0 * (np.arange(12) > 6)
    (told,) = footprint.judge(rows_of(memory), 20)
    assert not told.grew and told.text.startswith('+228.6 MiB an hour')


@pytest.mark.parametrize('seed', range(3))
def test_slope_is_the_median_of_pairs(seed):
    draw = np.random.default_rng(seed)
    x = np.cumsum(draw.uniform(0.1, 2, 30))
    y = draw.normal(0, 1, 30)
    pairs = itertools.combinations(zip(x, y, strict=True), 2)
    slopes = sorted((d - b) / (c - a) for (a, b), (c, d) in pairs)
    middle = len(slopes) // 2
    assert len(slopes) == 435
    assert footprint.slope(x, y) == pytest.approx(slopes[middle], abs=1e-12)


@pytest.mark.parametrize(
    ('counts', 'expected'),
    [
        ([5] * 8, []),
        ([1, 2, 5, 5, 5, 5, 5, 5], []),  # the warm-up
        ([5, 5, 5, 5, 5, 5, 5, 6], ['descriptors']),
        ([5, 5, 3, 5, 9, 9, 5, 5], []),  # given back
        ([9, 9, 5, 5, 5, 5, 6, 5], ['descriptors']),
        ([3, 4, 5, 4, 3, 4, 5, 4], []),
    ],
)
def test_counts_stay_at_what_the_second_quarter_had(counts, expected):
    assert grew(rows_of([600.0] * 8, descriptors=counts)) == expected


@pytest.mark.parametrize(('last', 'expected'), [(500_400, []), (500_600, ['objects'])])
def test_objects_may_vary_by_a_thousandth(last, expected):
    assert grew(rows_of([600.0] * 8, objects=[500_000] * 7 + [last])) == expected


def test_too_few_rounds_are_not_judged():
    with pytest.raises(ValueError, match='8 rounds or more, got 7'):
        footprint.judge(rows_of([600.0] * 7), 20)


def test_everything_held_is_counted(tmp_path, mmdet_ready):
    """One of each more, and none left over afterwards."""
    import matplotlib.pyplot as plt
    from mmengine.logging import MMLogger

    (tmp_path / 'pymp-1').mkdir()
    while gc.collect():  # what earlier tests have left, finalizers and all
        pass
    before = footprint.measure(tmp_path)
    name = f'soak-{os.getpid()}'
    logger = MMLogger.get_instance(name, log_file=str(tmp_path / 'pymp-1' / 'log'))
    handler = logging.NullHandler()
    logging.getLogger(name).addHandler(handler)
    figure = plt.figure()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    shell = ['sh', '-c', 'sleep 60 & echo; wait']
    child = subprocess.Popen(shell, stdout=subprocess.PIPE)
    child.stdout.readline()  # the grandchild is there
    try:
        after = footprint.measure(tmp_path)
        found = {one: after[one] - before[one] for one in after}
        for process in (*footprint.descendants(child.pid), child.pid):
            os.kill(process, 9)  # not what other tests have running
    finally:
        plt.close(figure)
        stop.set()
        thread.join()
        child.wait()
        child.stdout.close()
        logging.getLogger(name).removeHandler(handler)
        MMLogger._instance_dict.pop(name)
        logger.handlers[1].close()
    # Memory is the next test's: here, earlier tests' memory may be given back.
    for name in ('own_mib', 'rss_mib', 'hwm_mib', 'modules', 'objects'):
        del found[name]
    assert found == {
        'descriptors': 2,  # the log and the pipe
        'threads': 1,
        'children': 2,
        'temp_files': 1,
        'shm_files': 0,
        'instances': 1,
        'handlers': 3,  # mmengine's logger has two
        'figures': 1,
    }
    assert footprint.measure(tmp_path)['children'] == before['children']


def test_memory_is_counted(tmp_path):
    """In a process of its own, where nothing else allocates or frees."""
    script = (
        'import json, sys; from pathlib import Path; import footprint\n'
        'rows = [footprint.measure(Path(sys.argv[1]))]\n'
        "held = bytearray(b'\\1' * (64 << 20))\n"
        'rows.append(footprint.measure(Path(sys.argv[1])))\n'
        'print(json.dumps(rows))'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, tmp_path],
        env=os.environ | {'PYTHONPATH': str(REPOSITORY / 'benchmarks')},
        check=True,
        capture_output=True,
        text=True,
    )
    before, after = json.loads(done.stdout)
    for name in ('own_mib', 'rss_mib'):
        assert after[name] - before[name] == pytest.approx(64, abs=4), name
    assert after['hwm_mib'] >= after['rss_mib'] - 1


@pytest.mark.slow
@pytest.mark.openmmlab
def test_a_round_leaves_nothing(mmdet_ready):
    """Training, test, evaluation and the others, with a process that loads data."""
    with fresh_mmengine(), soak.own_folder() as root:
        data = soak.write_shapes(root / 'data', sizes=soak.IMAGES, side=soak.SIDE_PX)
        before = footprint.measure(root / 'tmp')
        soak.soak_round(1, root / 'work', data)
        after = footprint.measure(root / 'tmp')
        names = {one.name for one in (root / 'work').iterdir()}
        assert {'train', 'test', 'eval', 'predict', 'gates', 'report.html'} <= names
        assert after['instances'] > before['instances']
        soak.forget_runs()
        assert footprint.measure(root)['instances'] == 0
    for one in ('children', 'temp_files', 'shm_files', 'figures'):
        assert after[one] == before[one], one


def test_another_exit_code_ends_the_soak():
    with pytest.raises(RuntimeError, match='expected exit code 0, got 2') as caught:
        soak.run('eval', '--ann', 'none.json', '--results', 'none.json')
    assert "'none.json' does not exist" in str(caught.value)


@pytest.mark.slow
def test_growth_is_named_and_recorded(monkeypatch, tmp_path, capsys):
    """Ctrl-C in round 9; every round before it left a file open."""
    held = []

    def leak(number, work, data):
        assert (data / 'annotations' / 'val.json').is_file()
        assert os.environ['TMPDIR'] == os.getcwd() != str(tmp_path)
        work.mkdir()
        if number == 8:
            raise KeyboardInterrupt
        held.append(open(os.devnull))

    monkeypatch.setattr(soak, 'soak_round', leak)
    monkeypatch.setattr(soak, 'forget_runs', lambda: None)
    here = os.getcwd()
    code = soak.main(['--out', str(tmp_path / 'figures.json')])
    for one in held:
        one.close()
    assert code == 1 and os.getcwd() == here
    printed = capsys.readouterr().out
    assert '8 rounds on ' in printed and printed.endswith('grew: descriptors\n')
    record = json.loads((tmp_path / 'figures.json').read_text())
    descriptors = [one['descriptors'] for one in record['rounds']]
    assert np.diff(descriptors).tolist() == [1] * 7
    bad = [one['name'] for one in record['verdicts'] if one['grew']]
    assert bad == ['descriptors']


def test_ctrl_c_at_once_judges_nothing(monkeypatch, capsys):
    def stop(number, work, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, 'soak_round', stop)
    assert soak.main([]) == 1
    assert 'too few to judge: 8 are needed' in capsys.readouterr().out
