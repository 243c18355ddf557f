"""Test a config: `eca-mmdet test` under the name that MMDetection users look for."""

import sys

from eca_mmdet.cli import main

if __name__ == '__main__':
    sys.exit(main(['test', *sys.argv[1:]]))
