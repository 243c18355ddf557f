"""``eca-mmdet reproduce``: measure the published rows on COCO."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from eca_mmdet.catalog.published import PUBLISHED, published_rows
from eca_mmdet.reproduce import verdict
from eca_mmdet.reproduce.coco_folder import CocoFolder, open_coco
from eca_mmdet.reproduce.plan import Job, check_configs, make_plan
from eca_mmdet.reproduce.report import RowOutcome, as_json, as_tables
from eca_mmdet.reproduce.run import RowFailed, Setting, known_record, run_job
from eca_mmdet.reproduce.weights_folder import scan
from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import take_own_folder, whole_file, write_json
from eca_mmdet.utils.text import printable

_OWN = ('rows', 'runs', 'tables.json', 'tables.md', 'tables.tex')


def run(args: argparse.Namespace) -> int:
    """Plan, measure row by row, report; 1 if a row failed or is outside."""
    _check_launcher(args)
    if not args.out:
        raise UserError('--out needs a folder; got an empty name.')
    published = Path(args.published) if args.published else PUBLISHED
    rows = published_rows(args.rows or (), path=published)
    coco = open_coco(args.coco)
    files, notes = scan(args.weights, leave_out=args.out)
    jobs = make_plan(rows, files, args.train)
    check_configs(jobs)
    if args.train:
        _require_train_set(coco)
    _tell(f'{coco.root}: {coco.departure or "COCO val2017"}')
    for note in notes:
        _tell(f'not used: {note}')
    setting = Setting(
        coco,
        Path(args.out),
        args.devices,
        args.launcher,
        _words(args.launch_with),
        tuple(args.cfg_options),
    )
    _check_paths(jobs, setting)
    if args.dry_run:
        return _dry_run(jobs, setting)
    take_own_folder(setting.out, _OWN)
    outcomes = []
    for index, job in enumerate(jobs, 1):
        outcomes.append(_outcome(job, setting, args, f'[{index}/{len(jobs)}]'))
        _write(outcomes, setting, notes)
    print(as_tables(outcomes, coco.departure, options=setting.options))
    _tell(f'reports: {setting.out}/tables.md, .tex and .json')
    bad = {verdict.OUTSIDE, verdict.FAILED}
    return int(any(one.verdict in bad for one in outcomes))


def _tell(line: str) -> None:
    """Say something that is not the result, which has stdout to itself."""
    print(printable(line), file=sys.stderr, flush=True)


def _check_launcher(args: argparse.Namespace) -> None:
    if args.devices < 1:
        raise UserError(f'--devices must be at least 1; got {args.devices}.')
    if args.devices > 1 and args.launcher == 'none':
        args.launcher = 'pytorch'
    if args.launch_with and args.launcher not in ('slurm', 'mpi'):
        raise UserError(
            '--launch-with is for --launcher slurm and mpi: with others each of its '
            'processes would do all the work.'
        )
    if args.launcher in ('slurm', 'mpi') and not args.launch_with:
        raise UserError(
            f"--launcher {args.launcher} needs --launch-with, as 'srun -n 8' or "
            "'mpirun -n 8'."
        )


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f'--launch-with {text!r} cannot be read: {error}.') from error


def _check_paths(jobs: Sequence[Job], setting: Setting) -> None:
    """Refuse paths that mmengine's KEY=VALUE would read as a list."""
    trained = [str(job.weights) for job in jobs if job.action == 'train']
    for path in (setting.coco.root, *trained):
        if any(sign in path for sign in ',[](){}"\'') or path.split() != [path]:
            raise UserError(
                f'{path}: a path with a space, comma, quote or bracket cannot be given '
                'to a config; rename it or make a link to it.'
            )


def _require_train_set(coco: CocoFolder) -> None:
    for name in ('train2017', 'annotations/instances_train2017.json'):
        if not (Path(coco.root) / name).exists():
            raise UserError(f'--train needs {name} in {coco.root}; it is not there.')


def _outcome(
    job: Job, setting: Setting, args: argparse.Namespace, place: str
) -> RowOutcome:
    """Measure a row, or take what an earlier call measured."""
    cost = _cost(job)
    if job.action == 'none':
        _tell(f'{place} {job.row.row}: {job.reason}')
        return RowOutcome(job.row, verdict.NO_WEIGHTS, job.reason, cost, {})
    if job.note:
        _tell(f'{place} {job.row.row}: {job.note}')
    record = known_record(job, setting)
    if record:
        _tell(f'{place} {job.row.row}: measured before, {record["seconds"]:.0f} s')
    try:
        record = record or run_job(
            job, setting, lambda line: _tell(f'{place} {job.row.row}: {line}')
        )
    except RowFailed as error:
        _tell(f'{place} {job.row.row}: failed, {error}')
        return RowOutcome(job.row, verdict.FAILED, str(error), cost, {})
    except KeyboardInterrupt:
        _tell(f'stopped in {job.row.row}; the same command goes on from there')
        raise
    tolerance = args.tolerance if job.released else args.tolerance_retrained
    compared = verdict.compare(job.row, record['measured'], tolerance)
    return RowOutcome(
        job.row,
        verdict.overall(compared),
        job.note,
        cost,
        compared,
        tolerance,
        job.released,
    )


def _cost(job: Job) -> dict[str, float]:
    """Count Params and GFLOPs of the row's own config, by the paper's convention."""
    from eca_mmdet.analysis.paper_cost import paper_cost
    from eca_mmdet.engine.config import build_model, load_config

    return paper_cost(build_model(load_config(job.row.config), 'meta'))


def _write(
    outcomes: Sequence[RowOutcome], setting: Setting, notes: Sequence[str]
) -> None:
    """Write the three reports of the rows so far."""
    coco = setting.coco
    content = as_json(outcomes, coco.to_dict(), notes, setting.options)
    write_json(setting.out / 'tables.json', content)
    for suffix, style in (('md', 'md'), ('tex', 'latex')):
        text = as_tables(outcomes, coco.departure, style, setting.options) + '\n'
        with whole_file(setting.out / f'tables.{suffix}') as partial:
            partial.write_text(text, encoding='utf-8')


def _dry_run(jobs: Sequence[Job], setting: Setting) -> int:
    """Print what would run and how long, and what is missing."""
    from eca_mmdet.reproduce.estimate import estimate_hours

    hours = estimate_hours(jobs, setting)
    total = 0.0
    for job in jobs:
        if job.action == 'none':
            print(f'{job.row.row}: {job.reason}')
            continue
        known = known_record(job, setting)
        left = 0.0 if known else hours[job.row.row]
        total += left
        what = 'measured before' if known else f'about {_time(left)}'
        words = f'{job.action} {job.config} {job.weights}'
        print(printable(f'{job.row.row}: {words}, {what}'))
        for option in job.options:
            print(printable(f'    {option}'))
        if job.note:
            print(f'    {job.note}')
    where = f'on {setting.devices} device(s), from one timed image'
    print(f'in all about {_time(total)} {where}')
    return 0


def _time(hours: float) -> str:
    return f'{hours:.1f} h' if hours >= 1 else f'{hours * 60:.0f} min'
