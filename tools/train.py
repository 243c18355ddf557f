"""Train a config: `eca-mmdet train` under the name that MMDetection users look for."""

import sys

from eca_mmdet.cli import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
