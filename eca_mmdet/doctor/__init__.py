"""Diagnosis and repair of an installation.

torch, mmcv and mmdet are imported in subprocesses only
(:mod:`eca_mmdet.doctor.environment`), because a broken one can crash, abort or hang.

To add a fault, write one rule in :mod:`eca_mmdet.doctor.software` (a package) or one
check in :mod:`eca_mmdet.doctor.machine` (the machine) and add it to the tuple there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor import machine, software
from eca_mmdet.doctor.environment import (
    STEPS,
    Environment,
    installed_packages,
    one_line,
    probe,
    run_child,
)
from eca_mmdet.doctor.fixes import FAULT, OK, UNKNOWN, Finding, Fix

SELF_TEST = PACKAGE / 'demo' / 'self_test.py'
SELF_TEST_LIMIT_S = 60.0


def examine() -> list[Finding]:
    """Read the metadata, try the imports, and run every check."""
    environment = Environment(installed_packages())
    environment.results = probe([*STEPS, *software.other_requirements(environment)])
    findings = []
    for check in (*software.CHECKS, *machine.CHECKS):
        try:
            findings += check(environment)
        except Exception as error:  # a broken environment can cause any
            name = check.__name__.removeprefix('check_')
            text = f'this check failed: {type(error).__name__}: {one_line(str(error))}'
            findings.append(Finding(name, UNKNOWN, text))
    return findings


def self_test(
    findings: Sequence[Finding], limit_s: float = SELF_TEST_LIMIT_S
) -> list[Finding]:
    """Train a tiny detector for one step on CPU and GPU, unless there are faults."""
    faults = [finding.name for finding in findings if finding.state == FAULT]
    if faults:
        names = ', '.join(dict.fromkeys(faults))
        return [Finding('self test', UNKNOWN, f'skipped; fix first: {names}')]
    records, ending = run_child(SELF_TEST, [], limit_s)
    results = [_self_test_finding(record) for record in records]
    if ending or not results:
        results.append(_self_test_fault(ending or 'it wrote no result'))
    return results


def _self_test_finding(record: dict[str, Any]) -> Finding:
    device = record['device']
    if 'error' in record:
        return _self_test_fault(f'{device}: {record["error"]}')
    text = (
        f'{device}: a Mask R-CNN on ECA-ResNet-18, a training step and a prediction, '
        f'loss {record["loss"]:.2f}, gradients in {record["gates"]} gates, '
        f'{record["seconds"]:.1f} s'
    )
    return Finding('self test', OK, text)


def _self_test_fault(text: str) -> Finding:
    fix = Fix('eca-mmdet demo --quick  (prints the whole error)')
    return Finding('self test', FAULT, text, fix)
