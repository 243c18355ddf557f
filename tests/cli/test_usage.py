"""The command line as it is typed: unknown words, help, an alias."""

import pytest

from eca_mmdet import cli
from eca_mmdet.cli.common import suggest

CASES = {
    'trian': ("no command 'trian'. Did you mean train?", 'usage: eca-mmdet COMMAND'),
    'xyz': ("no command 'xyz'. All: eca-mmdet --help", 'usage: eca-mmdet COMMAND'),
    'train a.py --batchsize 4': (
        '--batchsize 4. Did you mean --batch-size?',
        'usage: eca-mmdet train ',
    ),
    'chek-data a.json': ('Did you mean data check', 'usage: eca-mmdet COMMAND'),
    'data chek a.json': ("invalid choice: 'chek'", 'usage: eca-mmdet data [-h] check|'),
    'data': (
        'are required: check|convert|split\n',
        'usage: eca-mmdet data [-h] check|',
    ),
    'export onnx a b c --qwx 3': (
        'unrecognized arguments: --qwx 3.\n',
        'usage: eca-mmdet export onnx ',
    ),
    'predict a b --conf 0.3': (
        '--conf 0.3. Did you mean --score-thr or ',
        'usage: eca-mmdet predict ',
    ),
    'train a.py --epoch 2': (  # no abbreviations
        '--epoch 2. Did you mean --epochs',
        'usage: eca-mmdet train ',
    ),
    'train a.py --epochs two': (
        "argument --epochs: must be a whole number, 1 or more; got 'two'\n",
        'usage: eca-mmdet train ',
    ),
    'train a.py --workers 1.5': (
        "argument --workers: must be a whole number, 0 or more; got '1.5'\n",
        'usage: eca-mmdet train ',
    ),
    'train a.py --lr fast': (
        "argument --lr: must be a number, more than 0, and finite; got 'fast'\n",
        'usage: eca-mmdet train ',
    ),
    'train a.py --lr inf': (
        'argument --lr: must be more than 0, and finite; got inf\n',
        'usage: eca-mmdet train ',
    ),
    'train a.py --imgsz 64x': (
        "argument --imgsz: must be as 640 or 1333x800; got '64x'\n",
        'usage: eca-mmdet train ',
    ),
    'train a.py --imgsz 64x1': (
        'argument --imgsz: must be 16 px or more; got 64x1\n',
        'usage: eca-mmdet train ',
    ),
    'configs a b': ('unrecognized arguments: b.\n', 'usage: eca-mmdet configs '),
}


@pytest.mark.parametrize('typed', CASES)
def test_unknown_words(typed, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(typed.split())
    error = capsys.readouterr().err
    assert caught.value.code == 2
    message, usage = CASES[typed]
    assert message in error and error.startswith(usage)


def test_no_words_at_all_print_the_overview(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    overview = capsys.readouterr().err
    assert caught.value.code == 2
    for title, names in cli.GROUPS.items():
        at = overview.index(f'\n{title}:\n')
        for name in names:
            assert overview.index(f'\n    {name} ', at) > at


SAME = {
    'help': '--help',
    'help eval': 'eval --help',
    'help data check': 'data check -h',
    'val -h': 'test -h',
    'check-data -h': 'data check -h',
    'to-coco -h': 'data convert -h',
    'split -h': 'data split -h',
    'complexity -h': 'cost -h',
    'compare-attention -h': 'attention compare -h',
    'attention eca -h': 'attention list -h',
    'tables -h': 'paper tables -h',
    'reproduce -h': 'paper reproduce -h',
}


@pytest.mark.parametrize('typed', SAME)
def test_other_words_for_the_same(typed, capsys):
    texts, notes = [], []
    for words in (typed, SAME[typed]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words.split())
        assert caught.value.code == 0
        captured = capsys.readouterr()
        texts.append(captured.out)
        notes.append(captured.err)
    assert texts[0] == texts[1] != ''
    name = typed.split()[0]
    renamed = f'eca-mmdet {name} is now: eca-mmdet {SAME[typed][:-3]}\n'
    assert notes == [renamed if name in cli._RENAMED else '', '']


def test_what_is_next_can_be_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    suggest(
        ['predict', tmp_path / 'my run', 'IMAGES'],
        ['test', 'https://x.org/a.pth', '/elsewhere/b'],
    )
    assert capsys.readouterr().err.splitlines() == [
        'Next:',
        "  eca-mmdet predict 'my run' IMAGES",
        '  eca-mmdet test https://x.org/a.pth /elsewhere/b',
    ]


def test_an_empty_word_is_no_command(capsys):
    with pytest.raises(SystemExit, match='2'):
        cli.main([''])
    assert "there is no command ''." in capsys.readouterr().err
