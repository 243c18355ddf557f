"""A progress bar appears on a terminal, after a while, and lines elsewhere."""

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


def test_without_a_terminal_long_work_has_lines_further_and_further_apart(monkeypatch):
    """At 10 s, then each time the time has doubled; a unit takes 4 s here."""
    seconds = iter(range(0, 1000, 4))
    monkeypatch.setattr(text.time, 'monotonic', lambda: next(seconds))
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    with text.progress('bootstrap', 20) as advance:
        for _ in range(20):
            advance()
    assert sys.stderr.getvalue().splitlines() == [
        'bootstrap: 3 of 20, about 68 s left',
        'bootstrap: 6 of 20, about 56 s left',
        'bootstrap: 12 of 20, about 32 s left',
    ]
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    with text.progress('frames') as advance:
        for _ in range(3):
            advance()
    assert sys.stderr.getvalue() == 'frames: 3\n'


@pytest.mark.parametrize('terminal', ['xterm', 'dumb'])
def test_no_bar_for_what_is_done_at_once_nor_over_an_error(terminal, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    monkeypatch.setenv('TERM', terminal)
    with pytest.raises(KeyError), text.progress('annotations'):
        raise KeyError
    assert sys.stderr.getvalue() == ''


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (ValueError('\n one \ntwo'), 'one'),
        (ValueError(), 'ValueError'),
        (OSError('\x1b[2J'), r'\x1b[2J'),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert text.first_line(error) == line
