"""Texts that follow from data in the code: tables, metafiles, pages of configs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import yaml

from eca_mmdet.catalog.architectures import RELEASED_KERNEL_SIZES
from eca_mmdet.catalog.configs import config_root
from eca_mmdet.catalog.mechanisms import BLOCK, MECHANISMS, Mechanism
from eca_mmdet.catalog.published import (
    AP_COLUMNS,
    PublishedRow,
    published,
    published_rows,
)
from eca_mmdet.datasets.coco import BYTE_ORDER_MARK
from eca_mmdet.datasets.rules import check

ABOUT = """\
# AP as reported by the ECA-Net paper, its authors or a reprint; nothing here was
# measured with this package. Fields: AP 0-100 on COCO val2017, Params in 10^6
# (trainable), FLOPs in 10^9 multiply-adds at 3x1280x800. Written by
# tools/update_readme.py from eca_mmdet/catalog/published.json.
"""
TASKS = {'box': 'Object Detection', 'mask': 'Instance Segmentation'}
MECHANISM_HEADER = (
    '| Mechanism | `type` | Arguments and defaults | Place in its config | '
    'Starts from ImageNet |\n| --- | --- | --- | --- | --- |'
)
FAULT_HEADER = (
    '| Fault | Severity | Meaning | What `--fix` does |\n| --- | --- | --- | --- |'
)


def families() -> dict[str, list[PublishedRow]]:
    """Return the published rows by folder of ``configs``, for every folder."""
    rows = {row.config: row for row in published_rows()}
    names = {
        folder.name: {file.stem for file in folder.glob('*.py')}
        for folder in sorted(config_root().glob('[!_]*/'))
    }
    return {
        family: [row for name, row in rows.items() if name in configs]
        for family, configs in names.items()
    }


def metafile(family: str, rows: list[PublishedRow]) -> str:
    """Return OpenMMLab's ``metafile.yml`` of a family."""
    collection = f'{rows[0].detector} (ECA-Net tables)'
    content = {
        'Collections': [
            {
                'Name': collection,
                'Metadata': {
                    'Training Data': 'COCO',
                    'Training Techniques': ['SGD with Momentum', 'Weight Decay'],
                    'Epochs': 12,
                    'Batch Size': 8,
                    'Learning Rate': 0.01,
                },
                'Paper': {
                    'URL': 'https://arxiv.org/abs/1910.03151',
                    'Title': 'ECA-Net: Efficient Channel Attention for Deep '
                    'Convolutional Neural Networks',
                },
            }
        ],
        'Models': [
            {
                'Name': row.config,
                'In Collection': collection,
                'Config': f'configs/{family}/{row.config}.py',
                # None is published; "mim download" then writes the config only.
                'Weights': [''],
                'Metadata': _metadata(row),
                'Results': [
                    {
                        'Task': TASKS[task],
                        'Dataset': 'COCO',
                        'Metrics': {
                            f'{task} {column}': numbers[column].value
                            for column in AP_COLUMNS
                            if column in numbers
                        },
                    }
                    for task, numbers in row.numbers().items()
                ],
            }
            for row in rows
        ],
    }
    return ABOUT + yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, width=1000
    )


def _metadata(row: PublishedRow) -> dict[str, Any]:
    ap = [number for task in row.numbers().values() for number in task.values()]
    numbers = [*ap, row.params_m, row.gflops]
    copies = {copy for number in numbers for copy in number.confirmed_by}
    titles = published()['sources'].items()
    sources = [title for copy, title in titles if copy in copies]
    if not all(number.confirmed_by for number in numbers):
        sources.append('ECA-Net paper (the numbers that no copy confirms)')
    confirmed = row.box['AP'].confirmed_by
    metadata: dict[str, Any] = {
        'Evidence': 'reported' if confirmed else 'reported, unconfirmed',
        'Trainable Parameters (M)': row.params_m.value,
        'FLOPs (G)': row.gflops.value,
    }
    if row.attention == 'ECA':
        # As text: mim joins the items of a list, and they must be text.
        sizes = RELEASED_KERNEL_SIZES[row.depth]
        metadata['Kernel Sizes'] = ', '.join(map(str, sizes))
    return {**metadata, 'Sources': sources}


def family_table(family: str, rows: list[PublishedRow]) -> str:
    """Return the Markdown list of a family's configs, with AP where it is published."""
    files = sorted(config_root().glob(f'{family}/*.py'))
    if not rows:
        return '\n'.join(f'- `{file.stem}`' for file in files)
    known = {row.config: row for row in rows}
    tasks = list(rows[0].numbers())
    titles = [f'{task.title()} AP, reported' for task in tasks]
    lines = [
        '| Config | ' + ' | '.join(titles) + ' |',
        '| --- |' + ' --: |' * len(tasks),
    ]
    for file in files:
        row = known.get(file.stem)
        cells = [row.numbers()[task]['AP'].shown(1) if row else '' for task in tasks]
        lines.append(f'| `{file.stem}` | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def mechanism_table() -> str:
    """Return the Markdown table of the attention mechanisms."""
    lines = [MECHANISM_HEADER]
    for row in MECHANISMS:
        layer = f'`{row.type}`' + ('' if row.module else ' (mmcv)')
        cells = [row.name, layer, _arguments(row), _place(row), _start(row)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def fault_table() -> str:
    """Return the Markdown table of the faults that ``data check`` finds."""
    lines = [FAULT_HEADER]
    for rule in (BYTE_ORDER_MARK, *check.RULES, *check.SPLIT_RULES):
        meaning = rule.message[:1].upper() + rule.message[1:]
        fix = rule.fix.summary if rule.fix else '-'
        lines.append(f'| `{rule.code}` | {rule.severity} | {meaning} | {fix} |')
    return '\n'.join(lines)


def _arguments(row: Mechanism) -> str:
    given = {key: value for key, value in row.layer.items() if key != 'type'}
    if row.module:
        from eca_mmdet.models import attention

        parameters = inspect.signature(getattr(attention, row.type)).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        del defaults['in_channels']
        given = {**defaults, **given}
    return ', '.join(f'`{name}={value!r}`' for name, value in given.items())


def _place(row: Mechanism) -> str:
    numbers = [number for number, has in enumerate(row.stages or (), 1) if has]
    stages = 'every stage'
    if len(numbers) == 1:
        stages = f'stage {numbers[0]}'
    elif numbers:
        join = ' and ' if len(numbers) == 2 else ' to '
        stages = f'stages {numbers[0]}{join}{numbers[-1]}'
    if row.position == BLOCK:
        return f'block, {stages}' if numbers else 'block'
    words = {'after_stage': 'after', 'before_last_block': 'before the last block of'}
    return f'{words[row.position]} {stages}'


def _start(row: Mechanism) -> str:
    if row.files:
        return row.files
    if row.adds:
        return 'ResNet, starts as the identity'
    return 'ResNet, gates random' if row.has_parameters else 'ResNet'


def pages() -> dict[Path, str]:
    """Return the text of each metafile and of both model indexes by their paths.

    mim reads the index of a checkout at its root, that of a wheel in ``.mim``.
    """
    metafiles = {
        f'configs/{family}/metafile.yml': metafile(family, rows)
        for family, rows in sorted(families().items())
        if rows
    }
    root = config_root().parent
    index = yaml.safe_dump({'Import': list(metafiles)})
    return {
        **{root / name: text for name, text in metafiles.items()},
        root / 'model-index.yml': index,
        root / 'eca_mmdet' / '.mim' / 'model-index.yml': index,
    }


def tables(repository: Path) -> dict[Path, str]:
    """Return the generated table of each document by its path."""
    return {
        repository / 'docs' / 'attention.md': mechanism_table(),
        repository / 'docs' / 'data.md': fault_table(),
        **{
            config_root() / family / 'README.md': family_table(family, rows)
            for family, rows in families().items()
        },
    }
