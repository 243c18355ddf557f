"""Record ``recorded/`` again: ``python -m tests.contract.record [-k TEST]``.

Run it after an intended change of behaviour, and review the difference with git. Only
files that differ are written.
"""

import os
import sys
from pathlib import Path

if __name__ == '__main__':
    import pytest

    os.environ['ECA_MMDET_RECORD'] = '1'
    folder = str(Path(__file__).parent)
    sys.exit(pytest.main([folder, '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))
