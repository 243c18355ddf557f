"""Print the tests of the layers that changed paths belong to, for ``make test-fast``.

    python tools/tests_of.py [PATH ...]

Without paths: what differs from the last commit, untracked files included. Each package
has its tests in the folder of its name; other files are covered by the tests of the
repository itself (tests/test_*.py). A change of the package or the configs may change
what tests/contract has recorded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ALWAYS = ('tests/test_layers.py',)


def changed() -> list[str]:
    """Return the paths that git reports as changed, relative to the repository."""
    command = ['git', 'status', '--porcelain', '--no-renames', '--untracked-files=all']
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [line[3:].strip('"') for line in done.stdout.splitlines()]


def tests_of(path: str) -> str | None:
    """Return the test file or folder that covers a path; None where pytest has none."""
    parts = Path(path).parts
    if parts[0] == 'tests' and Path(path).name.startswith('test_'):
        return path if (REPOSITORY / path).is_file() else None
    if parts[0] in ('eca_mmdet', 'tests') and len(parts) > 2:
        folder = REPOSITORY / 'tests' / parts[1]
        if any(folder.glob('test_*.py')):
            return f'tests/{parts[1]}'
    if parts[0] == 'configs':
        return 'tests/catalog'
    loose = {'README.md': 'tests/test_readme.py', 'docs': 'tests/test_readme.py'}
    return loose.get(parts[0], 'tests/test_registration.py')


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tests, one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('paths', nargs='*', metavar='PATH')
    paths = parser.parse_args(argv).paths or changed()
    found = {test for path in paths if (test := tests_of(path))}
    if any(path.startswith(('eca_mmdet/', 'configs/')) for path in paths):
        found.add('tests/contract')
    print(' '.join(sorted(found.union(ALWAYS))))
    return 0


if __name__ == '__main__':
    sys.exit(main())
