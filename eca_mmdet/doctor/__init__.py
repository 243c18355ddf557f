"""Diagnosis and repair of an installation.

torch, mmcv and mmdet are imported in subprocesses only
(:mod:`eca_mmdet.doctor.environment`), because a broken one can crash, abort or hang.

To add a fault of a package, write one rule in :mod:`eca_mmdet.doctor.checks` and add it
to the tuple there.
"""

from __future__ import annotations

from collections.abc import Sequence

from eca_mmdet.catalog.configs import PACKAGE
from eca_mmdet.doctor import checks
from eca_mmdet.doctor.environment import (
    STEPS,
    Environment,
    installed_packages,
    probe,
    run_child,
)
from eca_mmdet.doctor.fixes import FAULT, OK, UNKNOWN, Finding, Fix
from eca_mmdet.utils.text import clipped

SELF_TEST = PACKAGE / 'demo' / 'self_test.py'
SELF_TEST_LIMIT_S = 60.0


def examine() -> list[Finding]:
    """Read the metadata, try the imports, and run every check."""
    environment = Environment(installed_packages())
    environment.results = probe([*STEPS, *checks.other_requirements(environment)])
    findings = []
    for check in checks.CHECKS:
        try:
            findings += check(environment)
        except Exception as error:  # a broken environment can cause any
            name = check.__name__.removeprefix('check_')
            text = clipped(f'{type(error).__name__}: {error}', 300)
            findings.append(Finding(name, UNKNOWN, f'this check failed: {text}'))
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
    texts = [
        f'{record["device"]}: a Mask R-CNN on ECA-ResNet-18, a training step and a '
        f'prediction, loss {record["loss"]:.2f}, gradients in {record["gates"]} gates, '
        f'{record["seconds"]:.1f} s'
        for record in records
        if 'error' not in record
    ]
    errors = [f'{r["device"]}: {r["error"]}' for r in records if 'error' in r]
    if ending or not records:
        errors.append(ending or 'it wrote no result')
    fix = Fix('eca-mmdet demo --quick  (prints the whole error)')
    passed = [Finding('self test', OK, text) for text in texts]
    return passed + [Finding('self test', FAULT, text, fix) for text in errors]
