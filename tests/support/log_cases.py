"""Recorded logs, and how to write others, for the tests of reading them."""

import json
from pathlib import Path

LOGS = Path(__file__).parents[1] / 'data' / 'logs'
STAMPS = ('20240109_235959', '20240110_000000', '20240120_100000', '20250101_000000')
RECORDED_STAMP = '20240101_100000'

BEGUN = '2024/01/01 10:00:00 - mmengine - INFO - Checkpoints will be saved to work_dir.'
RESUMED = '2024/01/01 10:00:00 - mmengine - INFO - resumed epoch: 1, iter: 20'


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def points(series):
    return dict(zip(series.steps, series.values, strict=True))


def checked(log):
    """The log, whose curves must be ascending without repeats and of equal lengths."""
    for curve in [*log.train.values(), *log.val.values()]:
        assert list(curve.steps) == sorted(set(curve.steps))
        assert len(curve.steps) == len(curve.epochs) == len(curve.values) > 0
        assert all((one is not None) == log.by_epoch for one in curve.epochs)
    return log


def write_lines(path, lines, end='\n'):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    path.write_text(''.join(f'{one}\n' for one in text[:-1]) + text[-1] + end)
    return path


def start(work_dir, stamp, lines, text=None, config=None):
    """Write the folder of one start of mmengine."""
    folder = work_dir / stamp
    write_lines(folder / 'vis_data' / f'{stamp}.json', lines or [''])
    if text is not None:
        write_lines(folder / f'{stamp}.log', text)
    if config is not None:
        write_lines(folder / 'vis_data' / 'config.py', [config])
    return folder
