"""One training step and one prediction of a tiny detector, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eca_mmdet.doctor.finding import FAULT, OK, Finding, Mend
from eca_mmdet.doctor.probe import run_child

LIMIT_S = 60.0
WHOLE_ERROR = Mend('eca-mmdet demo --quick  (shows the whole error)')
FILE = Path(__file__).with_name('self_test_run.py')


def self_test(limit_s: float = LIMIT_S) -> list[Finding]:
    """Return a finding for each device, CPU and GPU.

    Args:
        limit_s: for the whole of it, seconds.
    """
    records, ended, _ = run_child(FILE, [], limit_s)
    found = [_finding(one) for one in records]
    if ended:
        found.append(Finding('self test', FAULT, ended, WHOLE_ERROR))
    return found or [Finding('self test', FAULT, 'it wrote no result', WHOLE_ERROR)]


def _finding(record: dict[str, Any]) -> Finding:
    device = record['device']
    if 'error' in record:
        return Finding('self test', FAULT, f'{device}: {record["error"]}', WHOLE_ERROR)
    return Finding(
        'self test',
        OK,
        f'{device}: a Mask R-CNN on ECA-ResNet-18, a training step and a prediction, '
        f'loss {record["loss"]:.2f}, gradients in {record["gates"]} gates, '
        f'{record["seconds"]:.1f} s',
    )
