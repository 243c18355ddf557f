"""Run the commands of docs/tutorial.md, and write what they print into it.

    python tools/update_tutorial.py FOLDER

FOLDER is new and keeps what the commands leave. A block of the document begins with
``$ COMMAND``; of what it prints all is shown, or what a comment above the block says:
``<!-- 5 lines from TEXT -->`` begins with the last line that has TEXT in it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eca_mmdet.utils.io import whole_file

REPOSITORY = Path(__file__).resolve().parents[1]
TUTORIAL = REPOSITORY / 'docs' / 'tutorial.md'
_BLOCK = re.compile(
    r'(?:<!-- (?P<count>\d+) lines from (?P<text>[^\n]+) -->\n)?'
    r'```console\n\$ (?P<command>(?:[^\n]*\\\n)*[^\n]*)\n(?P<output>.*?)```',
    re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    """A command of the document.

    Attributes:
        words: the command; backslashes at line ends are gone.
        target: file that stdout goes to, after '>'; None without.
        start: text of the first line to show; None for all that it prints.
        count: of lines.
        span: where its output stands in the document.
    """

    words: list[str]
    target: str | None
    start: str | None
    count: int
    span: tuple[int, int]


def read_steps(text: str) -> Iterator[Step]:
    """Yield the commands of a document, in its order."""
    for found in _BLOCK.finditer(text):
        words = shlex.split(found['command'].replace('\\\n', ' '))
        target = None
        if '>' in words:
            at = words.index('>')
            words, target = words[:at], words[at + 1]
        count = int(found['count'] or 0)
        yield Step(words, target, found['text'], count, found.span('output'))


def run(step: Step, folder: Path) -> str:
    """Run a command as a user would, and return the lines to show.

    Raises:
        SystemExit: it fails.
    """
    words = list(step.words)
    bin_folder = Path(sys.executable).parent
    if (bin_folder / words[0]).exists():
        words[0] = str(bin_folder / words[0])
    done = subprocess.run(
        words,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if step.target else subprocess.STDOUT,
    )
    printed = done.stdout
    if step.target:
        (folder / step.target).write_text(done.stdout, encoding='utf-8')
        printed = done.stderr
    if done.returncode:
        raise SystemExit(f'{shlex.join(step.words)}: {done.returncode}\n{printed}')
    printed = printed.replace(f'{folder.resolve()}/', '')
    printed = printed.replace(str(REPOSITORY), '/path/to/eca-mmdet')
    return chosen(step, printed.splitlines())


def chosen(step: Step, lines: list[str]) -> str:
    """Return the lines that the document shows."""
    if step.start is not None:
        at = max(n for n, line in enumerate(lines) if step.start in line)
        rest = lines[at + step.count :]
        before, after = ['...'] * (at > 0), ['...'] * bool(rest)
        lines = [*before, *lines[at : at + step.count], *after]
    return ''.join(f'{line.rstrip()}\n' for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Run every command, then write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True)
    text = TUTORIAL.read_text(encoding='utf-8')
    parts, end = [], 0
    for step in read_steps(text):
        print(f'$ {shlex.join(step.words)}', flush=True)
        output = run(step, args.folder)
        print(output, flush=True)
        parts += [text[end : step.span[0]], output]
        end = step.span[1]
    with whole_file(TUTORIAL) as partial:
        partial.write_text(''.join([*parts, text[end:]]), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
