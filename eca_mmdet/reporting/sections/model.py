"""Sections on the detector and the sources of its numbers: gates, costs, files."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eca_mmdet.registration import register
from eca_mmdet.reporting.run import Options, Run, reason
from eca_mmdet.reporting.sections import Chart, Section, chart, line
from eca_mmdet.reporting.sections.images import find_annotations, find_images
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import describe_file, sha256_of

_HARDLY = 0.1  # share of a gate's range that all its channel means are within


def _gates(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return a table of each run's gates, recorded or measured now, and charts."""
    limit = options.gate_images if options.model else 0
    gates = []
    for at, run in enumerate(runs):
        if run.gates is None and run.checkpoint is not None and limit:
            try:
                from eca_mmdet.analysis.gate_images import choose_images
                from eca_mmdet.analysis.gates import record_gates

                source = find_annotations(run, options.annotations)
                folder = find_images(run, options.images)
                chosen = choose_images(source, str(folder), None, limit)
                run.gates = record_gates([str(run.checkpoint)], chosen)
            except UserError as error:
                run.missing.append(f'gates: {reason(error)}')
        if run.gates is not None:
            gates.append(_gate_table(run, at))
    return {'gates': gates, 'charts': _gate_charts(runs)} if gates else None


def _gate_table(run: Run, at: int) -> dict[str, Any]:
    from eca_mmdet.analysis.gate_plots import GATE_HEADER, gate_cells

    record = run.gates or {}
    gates = record['checkpoints'][0]['gates']
    limits = record['thresholds']
    ends = np.array([(min(gate['mean']), max(gate['mean'])) for gate in gates])
    widths = np.ptp(ends, 1) / np.ptp([gate['range'] for gate in gates], 1)
    summary = f'Channel means are within {ends.min():.3f} to {ends.max():.3f}'
    if spreads := [s for gate in gates if (s := gate['class_spread']) is not None]:
        summary += f'; classes deviate from them by {np.mean(spreads):.2g} on average'
    if max(widths) < _HARDLY:
        summary += '. No gate tells channels apart by more than a tenth of its range'
    caption = (
        f'{record["images"]} images. Channels, of the range: dead: below '
        f'{limits["dead"]:g} on all images; saturated: above {limits["saturated"]:g}; '
        f'constant: standard deviation below {limits["constant"]:g}'
    )
    return {
        'label': run.label,
        'colour': at,
        'caption': caption,
        'summary': summary,
        'header': ['gate', *GATE_HEADER],
        'rows': [gate_cells(gate) for gate in gates],
        'kernels': [
            (gate['name'], ' '.join(f'{weight:.3f}' for weight in gate['kernel']))
            for gate in gates
            if gate['kernel']
        ],
    }


def _gate_charts(runs: Sequence[Run]) -> list[Chart | None]:
    """Return a chart a stage, of its last gate: a line for each class or run.

    Lines of classes are differences from their mean, since the gates of all classes
    nearly coincide.
    """
    from eca_mmdet.analysis.gate_plots import drawn_classes, last_of_stages

    what = 'gate'
    having = [(at, run.gates) for at, run in enumerate(runs) if run.gates]
    stages: dict[Any, tuple[str, list[dict[str, Any]]]] = {}  # titles and lines
    for at, record in having:
        classes = drawn_classes(record) if len(having) == 1 else []
        for key, gate in last_of_stages(record['checkpoints'][0]['gates']).items():
            _, lines = stages.setdefault(key, (gate['name'], []))
            if len(having) > 1:
                lines.append(line(runs[at].label, enumerate(gate['mean']), at))
            elif len(classes) < 2:
                lines.append(line('all images', enumerate(gate['mean']), 0))
            else:
                values = np.array([gate['by_class'][name] for name in classes])
                lines += [
                    line(
                        name,
                        enumerate((values[index] - values.mean(0)).tolist()),
                        index,
                    )
                    for index, name in enumerate(classes)
                ]
                what = 'gate - mean of the classes'
    return [
        chart('line', f'gates-{index}', title, what, lines, x='channel')
        for index, (title, lines) in enumerate(stages.values())
    ]


GATES = Section('gates', 'Gates', _gates)


def _costs(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return the costs of each run's detector, counted from its config."""
    found = []
    for at, run in enumerate(runs):
        if run.config is None or not options.model:
            continue
        try:
            cost = _cost(copy.deepcopy(run.config), str(run.config_path))
        except Exception as error:  # parts may raise anything on wrong arguments
            known = isinstance(error, UserError)
            run.missing.append(f'costs: {reason(error) if known else repr(error)}')
            continue
        found.append({'label': run.label, 'colour': at, **cost})
    return {'costs': found} if found else None


def _cost(values: dict[str, Any], path: str) -> dict[str, Any]:
    register()
    from eca_mmdet.analysis.exact_cost import exact_cost
    from eca_mmdet.engine.config import build_model, plain_config

    shape = input_shape(values)
    values['default_scope'] = 'mmdet'
    cfg = plain_config(values, path)
    if not cfg.get('model'):
        raise UserError('the config has no model', code='config-invalid')
    cost = exact_cost(build_model(cfg, 'meta'), cfg, shape)
    parts = {**cost.parts, 'total': cost.total, 'of it the gates': cost.gates}
    return {'shape': shape, 'cost': cost, 'parts': parts}


def input_shape(values: dict[str, Any]) -> tuple[int, int]:
    """Return height and width of the test input, in pixels, each a multiple of 32.

    mmdet's scales are (longer, shorter) where the ratio is kept: a wide image is
    assumed. Without one, 800 x 1344.
    """
    from eca_mmdet.engine.config import leaf_datasets

    datasets = leaf_datasets(values.get('test_dataloader'))[:1]
    for step in (step for dataset in datasets for step in dataset.get('pipeline', ())):
        scale = step.get('scale')
        if isinstance(scale, (list, tuple)) and len(scale) == 2:
            shorter, longer = sorted(scale)
            return -(-shorter // 32) * 32, -(-longer // 32) * 32
    return 800, 1344


COSTS = Section('costs', 'Costs', _costs)


def _configs(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return every run's flat config, and with several what differs."""
    tables = [dict(flat(run.config)) if run.config else {} for run in runs]
    if not any(run.config_path for run in runs):
        return None
    known = [table for table in tables if table]
    return {
        'compared': len(known) > 1,
        'differing': [
            [name, *(table.get(name, '') for table in tables)]
            for name in dict.fromkeys(name for table in known for name in table)
            if len({table.get(name) for table in known}) > 1
        ],
        'configs': list(zip(runs, map(list, map(dict.items, tables)), strict=True)),
    }


def flat(value: Any, name: str = '') -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value) of a config; lists of dicts are counted."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f'{name}.{key}' if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        for index, item in enumerate(value):
            yield from flat(item, f'{name}[{index}]')
    else:
        yield name, repr(value)


CONFIG = Section('config', 'Config', _configs)


def _files(runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
    """Return each run's files with their sums, its machine, and all versions."""
    tables = [(run.record or {}).get('versions') or {} for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    return {
        'details': [(run, files_of(run)) for run in runs],
        'versions': [
            [name, *(table.get(name, '') for table in tables)] for name in names
        ],
    }


def files_of(run: Run) -> list[dict[str, str]]:
    """Return what the numbers rest on: name, sha256, and whether that is still so.

    Sums in the record are of the time of the evaluation; the files of the page's own
    folder are summed now.
    """
    record = run.record or {}
    rows = []
    for what in ('annotations', 'checkpoint', 'predictions'):
        recorded = record.get(what) or {}
        if file := recorded.get('file'):
            sha256 = recorded.get('sha256') or ''
            kept = (what == 'checkpoint' and run.checkpoint) or Path(file)
            if not kept.is_file():
                state = 'no longer there'
            elif not sha256:
                state = 'not summed'
            else:
                same = sha256_of(kept) == sha256
                state = 'unchanged since' if same else 'CHANGED since'
            rows.append({'what': what, 'file': file, 'sha256': sha256, 'state': state})
    for what, path in (('metrics', run.record_path), ('config', run.config_path)):
        if path is not None and path.is_file():
            rows.append({'what': what, **describe_file(path), 'state': 'summed now'})
    return rows


FILES = Section('files', 'Files', _files, heading='Files and environment')
