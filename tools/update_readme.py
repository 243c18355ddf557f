"""Write what documents repeat of the code: tables, metafiles, counts.

    python tools/update_readme.py [--check]

The README's measured column comes from ``records/*.json``, which are ``tables.json`` of
``eca-mmdet paper reproduce`` on the whole of COCO val2017; others are rejected.
``--check`` writes nothing and exits with 1 if a document is not what would be written.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any

import catalog_pages

from eca_mmdet.catalog.mechanisms import MECHANISMS
from eca_mmdet.catalog.published import PublishedRow, cells_of, published_rows
from eca_mmdet.utils.io import whole_file

REPOSITORY = Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- table: tools/update_readme.py -->', '<!-- end of table -->'
HEADER = (
    '| Detector | Backbone | Attention | Params (M) | GFLOPs | Box AP, reported | '
    'Mask AP, reported | Box / mask AP, measured |\n'
    '| --- | --- | --- | --: | --: | --: | --: | --- |'
)


def main(argv: list[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true')
    parser.add_argument('--readme', type=Path, default=REPOSITORY / 'README.md')
    parser.add_argument('--records', type=Path, default=REPOSITORY / 'records')
    args = parser.parse_args(argv)
    readme = table(read_records(args.records))
    stale = [
        update(path, new, args.check)
        for path, new in documents(args.readme, readme).items()
    ]
    if any(stale) and args.check:
        print('out of date: python tools/update_readme.py')
        return 1
    return 0


def documents(readme: Path, readme_table: str) -> dict[Path, str]:
    """Return the text of every document that repeats data of the code."""
    tables = {readme: readme_table, **catalog_pages.tables(REPOSITORY)}
    result = catalog_pages.pages()
    for path, new in tables.items():
        result[path] = with_table(path.read_text(encoding='utf-8'), new, path)
    count = f'{len(MECHANISMS)} attention mechanisms'
    result[readme] = re.sub(r'\d+ attention mechanisms', count, result[readme])
    return result


def update(path: Path, new: str, check: bool) -> bool:
    """Write a document, or show what would change; return whether anything would."""
    old = path.read_text(encoding='utf-8') if path.is_file() else ''
    if new == old:
        return False
    if check:
        sides = old.splitlines(), new.splitlines()
        print('\n'.join(difflib.unified_diff(*sides, str(path), lineterm='', n=0)))
    else:
        with whole_file(path) as partial:
            partial.write_text(new, encoding='utf-8')
    return True


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return measured rows by name; of a row measured twice, the last file's.

    Raises:
        SystemExit: a record was not made on COCO val2017.
    """
    found = {}
    for path in sorted(folder.glob('*.json')):
        content = json.loads(path.read_text())
        if content['coco']['departure'] or content['options']:
            how = content['coco']['departure'] or ' '.join(content['options'])
            raise SystemExit(f'{path} was measured on {how}')
        for row in content['rows']:
            if row['measured']:
                found[row['row']] = row
    unknown = found.keys() - {row.row for row in published_rows()}
    if unknown:
        raise SystemExit(f'records of rows that are not in the tables: {unknown}')
    return found


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [HEADER]
    for row in published_rows():
        box, mask = (row.numbers().get(task) for task in ('box', 'mask'))
        cells = [
            *(row.detector, f'ResNet-{row.depth}', row.attention),
            *cells_of(row, 'box')[:2],
            *(ap['AP'].shown(1) if ap else '' for ap in (box, mask)),
            both(measured.get(row.row), row),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join([*lines, '', state(measured)])


def state(measured: dict[str, dict[str, Any]]) -> str:
    """Say how much of the measured column there is."""
    if measured:
        return f'{len(measured)} of 20 rows are measured; the records are in records/.'
    return (
        '**The measured column is empty**: nobody has run these configs on COCO yet. '
        '`eca-mmdet paper reproduce`\nfills it: [docs/reproduce.md](docs/reproduce.md).'
    )


def both(record: dict[str, Any] | None, row: PublishedRow) -> str:
    """Return measured box and mask AP, or nothing."""
    if not record:
        return ''
    found = [record['measured'].get(task) for task in row.numbers()]
    values = [one and one['measured'].get('AP') for one in found]
    text = ' / '.join('n/a' if one is None else f'{one:.1f}' for one in values)
    return text if record['verdict'] == 'within' else f'{text} ({record["verdict"]})'


def with_table(text: str, new: str, path: Path) -> str:
    """Replace what stands between the two marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f'{path} must have one {BEGIN} and one {END}')
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f'{before}{BEGIN}\n{new}\n{END}{after}'


if __name__ == '__main__':
    sys.exit(main())
