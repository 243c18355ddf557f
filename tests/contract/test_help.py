"""The help text of every command and subcommand."""

import re

from tests.contract.recorded import FOLDER, check

SUBCOMMAND = re.compile(r'^    ([a-z][a-z-]*)(?: |$)', re.MULTILINE)


def walk(run, command=''):
    """Return {command: help text} for a command and what is below it."""
    code, text, error = run(f'{command} --help')
    assert (code, error) == (0, '')
    texts = {command or 'eca-mmdet': text}
    for name in SUBCOMMAND.findall(text):
        texts |= walk(run, f'{command} {name}'.strip())
    return texts


def test_help(eca_mmdet_command):
    texts = walk(eca_mmdet_command)
    names = {f'{command.replace(" ", "_")}.txt' for command in texts}
    recorded = {path.name for path in (FOLDER / 'help').glob('*.txt')}
    assert recorded <= names, f'commands are missing: {recorded - names}'
    # Words are compared: where lines break depends on the version of Python.
    for command, text in texts.items():
        check(f'help/{command.replace(" ", "_")}.txt', text)


def test_version(eca_mmdet_command):
    import eca_mmdet

    code, out, _ = eca_mmdet_command('--version')
    assert code == 0
    assert eca_mmdet.__version__ in out
