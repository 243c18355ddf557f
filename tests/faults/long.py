"""Try bad inputs of ever new seeds for some minutes, and keep what goes wrong.

python -m tests.faults.long --minutes 10 --seed 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults import image_cases, json_cases, kept, run_cases, weights_cases
from tests.faults.cases import Case
from tests.faults.judge import Runner, faults_of


def rounds(root: Path, seed: str) -> Iterator[Case]:
    """Yield the cases of one seed."""
    for name in (*weights_cases.SOUND, 'checkpoint.pth'):
        raw = (root / name).read_bytes()
        yield from weights_cases.corrupted(name, raw, 4, 4, seed)
    yield from json_cases.changed_annotations(80, seed)
    found = json.loads((root / 'masks.json').read_text())
    yield from json_cases.changed_results(found, 80, seed)
    for file in run_cases.FILES[:4]:
        yield from run_cases.changed(root, file, 12, seed)
    yield from image_cases.corrupted(root, 3, seed)


def main() -> int:
    """Run; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--seed', default='1')
    args = parser.parse_args()
    start, tried, finds, peak = time.monotonic(), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as place:
        runner = Runner(Path(place))
        folder = Path(place) / 'case'
        for case in itertools.chain.from_iterable(
            rounds(runner.originals, f'{args.seed}.{n} ') for n in itertools.count()
        ):
            if time.monotonic() - start > 60 * args.minutes:
                break
            answer = runner.ask(case.write(folder, runner.originals), folder)
            wrong = faults_of(case, answer, folder)
            tried[case.id.partition('/')[0]] += 1
            peak = max(peak, answer.get('mib', 0))
            if wrong:
                finds += 1
                at = kept.keep(case, folder / 'in' / case.name, '; '.join(wrong)[:500])
                print(f'FOUND {case.id}: {"; ".join(wrong)[:300]} ({at})', flush=True)
                print(f'      {(answer.get("error") or answer["err"])[-300:]!r}')
            shutil.rmtree(folder)
        runner.close()
    seconds = time.monotonic() - start
    counts = ', '.join(f'{count} {kind}' for kind, count in sorted(tried.items()))
    print(f'{sum(tried.values())} cases ({counts}), {finds} finds, {seconds:.0f} s')
    print(f'a command grew by {peak} MiB at most')
    return int(finds > 0)


if __name__ == '__main__':
    raise SystemExit(main())
