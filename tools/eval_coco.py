"""``eca-mmdet eval`` at the place where MMDetection users look."""

import sys

from eca_mmdet.cli import main

if __name__ == '__main__':
    sys.exit(main(['eval', *sys.argv[1:]]))
