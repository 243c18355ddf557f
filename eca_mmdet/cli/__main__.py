"""``python -m eca_mmdet.cli``."""

import sys

from eca_mmdet.cli import main

sys.exit(main())
