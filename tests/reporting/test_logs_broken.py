"""Training logs that are broken, strange, or none."""

import json
import math

import pytest

from eca_mmdet.reporting.logs import LONGEST, read_logs
from eca_mmdet.utils.errors import UserError
from tests.support.log_cases import STAMPS, checked, points, write_lines

GOOD = [{'loss': 5.0 - step / 10, 'iter': step, 'step': step} for step in (10, 20, 30)]


def test_numbers_that_are_none(tmp_path):
    lines = [json.dumps(one) for one in GOOD]
    lines[1] = '{"loss": NaN, "loss_b": -Infinity, "grad_norm": NaN, "iter": 20}'
    lines[2] = '{"loss": NaN, "loss_b": 1, "iter": 30}'
    log = checked(read_logs(write_lines(tmp_path / 'a.json', lines)))
    assert log.train['loss'].steps == (10, 20, 30)
    assert math.isnan(log.train['loss'].values[1])
    assert log.train['loss_b'].values == (-math.inf, 1)
    said = 'is infinite or not a number at'
    assert log.notes == (
        f'loss {said} 2 of 3 logged steps, first at iteration 20',
        f'loss_b {said} 1 of 2 logged steps, first at iteration 20',
        'no validation was logged',
    )


@pytest.mark.parametrize(
    ('bad', 'reason'),
    [
        ('[1, 2]', 'not a JSON object'),
        ('{"loss": 1', 'not JSON'),
        ('\x00\x01\x02 PNG \ufffd', 'not JSON'),
        ('[' * 100_000, 'not JSON'),
        ('{"a": ' * 100_000, 'not JSON'),
        ('{"loss": 1.0}', 'no step'),
        ('{"loss": 1.0, "iter": "20"}', 'iter is no count'),
        ('{"loss": 1.0, "iter": true}', 'iter is no count'),
        ('{"loss": 1.0, "iter": -5}', 'iter is no count'),
        ('{"loss": 1.0, "iter": 2.5}', 'iter is no count'),
        ('{"loss": 1.0, "iter": NaN}', 'iter is no count'),
        ('{"loss": 1.0, "iter": 1e300}', 'iter is no count'),
        ('{"loss": 1.0, "iter": [20]}', 'iter is no count'),
        ('{"loss": 1.0, "iter": 25, "epoch": null}', 'epoch is no count'),
        ('{"loss": 1.0, "iter": ' + '9' * 5000 + '}', ''),
        ('{"a": "' + 'x' * 3 * LONGEST + '"}', 'letters'),
    ],
)
def test_a_line_that_cannot_be_read(bad, reason, tmp_path):
    lines = [json.dumps(one) for one in GOOD]
    log = checked(
        read_logs(write_lines(tmp_path / 'a.json', [*lines[:2], bad, lines[2]]))
    )
    assert points(log.train['loss']) == {10: 4, 20: 3, 30: 2}
    assert log.notes[-1].startswith('1 line could not be read (first: a.json line 3: ')
    assert reason in log.notes[-1]


def test_values_that_are_no_numbers_are_skipped(tmp_path):
    strange = {'a': [1.0], 'b': True, 'c': '0.1 0.2', 'd': None, 'e': {'x': 1}}
    strange |= {'big': 10**400, 'Größe \x1b[31m\ud800': 1.5, 'lr': {'g': 0.1, 'h': 'x'}}
    log = checked(read_logs(write_lines(tmp_path / 'a.json', [GOOD[0] | strange])))
    assert set(log.train) == {'loss', 'big', 'Größe \\x1b[31m\\ud800', 'lr_g'}
    assert log.train['big'].values == (math.inf,)


@pytest.mark.parametrize('cut', range(1, 62, 6))
def test_killed_while_writing(cut, tmp_path):
    line = json.dumps(GOOD[2])
    lines = [*GOOD[:2], line[: min(cut, len(line) - 1)]]
    log = checked(read_logs(write_lines(tmp_path / 'a.json', lines, end='')))
    assert log.train['loss'].steps == (10, 20)
    assert log.notes[-1] == (
        '1 line could not be read (first: a.json line 3: it was not written to its end)'
    )


def test_names_of_files_are_printable(tmp_path):
    log = read_logs(write_lines(tmp_path / 'a\x1b[31m.json', ['{', *GOOD]))
    assert log.notes[-1].startswith('1 line could not be read (first: a\\x1b[31m.json')


@pytest.mark.slow
def test_encodings(tmp_path):
    plain = ''.join(f'{json.dumps(one)}\r\n\r\n' for one in GOOD[:2])
    path = tmp_path / 'a.json'
    for content, encoding in [
        (plain, 'utf-8-sig'),
        (plain + '\0' * 500, 'utf-8'),  # as a disk leaves it after a power cut
    ]:
        path.write_bytes(content.encode(encoding))
        log = checked(read_logs(path))
        assert log.train['loss'].steps == (10, 20)
        assert not [note for note in log.notes if 'could not be read' in note]


def test_memory_does_not_grow_with_a_line(tmp_path):
    import tracemalloc

    path = write_lines(tmp_path / 'a.json', [*GOOD[:1], 'x' * 20 * LONGEST, GOOD[1]])
    tracemalloc.start()
    log = read_logs(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.train['loss'].steps == (10, 20)
    assert peak < 8 * LONGEST


@pytest.mark.parametrize('content', [b'', b'\n\n', b'\x89PNG\r\n\x1a\n' * 50, b'{}'])
@pytest.mark.parametrize('name', ['a.json', 'a.log', 'a.log.json', 'a'])
def test_files_without_a_log(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match='no training in .*Name the work_dir'):
        read_logs(tmp_path / name)


def test_other_json_is_no_log(tmp_path):
    for content in (
        {'images': [], 'annotations': []},
        {'config': 'a.py', 'metric': {}},
    ):
        path = write_lines(tmp_path / 'a.json', [content])
        with pytest.raises(UserError, match='no training in'):
            read_logs(path)


def test_places_without_a_log(tmp_path):
    with pytest.raises(UserError, match='neither a file nor a folder'):
        read_logs(tmp_path / 'nowhere')
    (tmp_path / STAMPS[0]).mkdir()
    (tmp_path / 'metrics.json').write_text('{}')
    for path in (tmp_path, tmp_path / STAMPS[0]):
        with pytest.raises(UserError, match=r'looked for .*vis_data/\*\.json'):
            read_logs(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Root, as whom CI runs, may read everything."""
    path = write_lines(tmp_path / 'a.json', GOOD)
    plain = open

    def refuse(name, *words, **options):
        if str(name) == str(path):
            raise PermissionError(13, 'Permission denied', str(name))
        return plain(name, *words, **options)

    monkeypatch.setattr('builtins.open', refuse)
    with pytest.raises(UserError, match='cannot be read'):
        read_logs(path)
