"""``eca-mmdet reproduce`` at the place where MMDetection users look."""

import sys

from eca_mmdet.cli import main

if __name__ == '__main__':
    sys.exit(main(['reproduce', *sys.argv[1:]]))
