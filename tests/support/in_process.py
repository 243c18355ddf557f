"""Commands that would be processes of their own, run in this one.

Importing mmdet takes six seconds, so that a test of what several commands do together
has each of them in a process only where the process is what is tested.
"""

import contextlib
import logging
import os
from unittest import mock

from eca_mmdet import cli


@contextlib.contextmanager
def fresh_mmengine():
    """Without what mmengine keeps by name; afterwards all of that is there again."""
    from mmengine.utils import ManagerMixin

    kept = {}
    with mock.patch.dict(os.environ):
        for kind in kinds(ManagerMixin):
            kept[kind] = dict(kind._instance_dict)
            kind._instance_dict.clear()
        try:
            yield
        finally:
            for kind in kinds(ManagerMixin):
                for one in kind._instance_dict.values():
                    if isinstance(one, logging.Logger):
                        for handler in one.handlers:
                            handler.close()
                kind._instance_dict.clear()
                kind._instance_dict.update(kept.get(kind, {}))


def kinds(first):
    """The class and all below it."""
    yield first
    for one in first.__subclasses__():
        yield from kinds(one)


class Here:
    """In the place of ``subprocess.Popen``: runs an eca-mmdet command at once."""

    def __init__(self, command, stdout, stderr):
        words = command[command.index('eca_mmdet.cli') + 1 :]
        with (
            fresh_mmengine(),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stdout),
        ):
            self._code = cli.main(words)

    def wait(self):
        return self._code
