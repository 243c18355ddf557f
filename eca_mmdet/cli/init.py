"""``eca-mmdet init``: a config for the user's own data."""

from __future__ import annotations

import argparse
import io
import sys

from eca_mmdet.autoconfig.options import Options
from eca_mmdet.autoconfig.plan import write_config
from eca_mmdet.utils.text import printable


def run(args: argparse.Namespace) -> int:
    """Print the config; what was found and proposed goes to stderr."""
    options = Options.of(args, args.train, args.val, sys.argv[1:])
    text = write_config(options, lambda line: print(printable(line), file=sys.stderr))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding='utf-8')  # as mmengine reads configs
    print(text, end='')
    return 0
