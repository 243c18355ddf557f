"""A progress bar appears on a terminal, after a while, and on nothing else."""

import io
import sys
import time

import pytest

from eca_mmdet.utils import text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('total', [None, 3])
@pytest.mark.parametrize('kind', [Terminal, io.StringIO])
def test_a_bar_appears_on_a_terminal_only(kind, total, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', kind())
    monkeypatch.setattr(text, 'PATIENCE', 0)
    monkeypatch.setenv('TERM', 'xterm')
    with text.progress('annotations', total) as advance:
        advance()
        while kind is Terminal and 'annotations' not in sys.stderr.getvalue():
            time.sleep(0.01)
    assert bool(sys.stderr.getvalue()) == (kind is Terminal)


@pytest.mark.parametrize('terminal', ['xterm', 'dumb'])
def test_no_bar_for_what_is_done_at_once_nor_over_an_error(terminal, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    monkeypatch.setenv('TERM', terminal)
    with pytest.raises(KeyError), text.progress('annotations'):
        raise KeyError
    assert sys.stderr.getvalue() == ''
