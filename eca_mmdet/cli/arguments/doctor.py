"""Arguments of the command that looks at the installation."""

from __future__ import annotations

from eca_mmdet.cli.common import Commands


def add_doctor(commands: Commands) -> None:
    """Add ``doctor``."""
    doctor = commands.add_parser(
        'doctor',
        help='what is wrong with this installation, and the commands that mend it',
        description='Judge Python, torch, mmdet, mmcv, the packages beside them and '
        'the machine; then train a tiny detector for one step. Works when any of them '
        'is broken or missing. Exit code 0: no fault (warnings may be), 1: a fault.',
    )
    doctor.add_argument('--json', action='store_true', help='print one JSON object')
    doctor.add_argument(
        '--fix',
        action='store_true',
        help='run the commands of pip that mend faults, each shown first, and look '
        'again',
    )
    doctor.add_argument(
        '--no-self-test', action='store_true', help='do not train the tiny detector'
    )
