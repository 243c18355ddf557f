"""docs/scale.md: its numbers, and what the scripts that it names would run."""

import copy
import json
import os
import re
import shutil
import subprocess

import pytest

from eca_mmdet.cli import build_parser
from eca_mmdet.engine import config as engine_config
from eca_mmdet.engine.distributed import TIMEOUT_S
from tests.conftest import PYTHON, REPOSITORY
from tests.support.ranks import free_port

DOCS = (REPOSITORY / 'docs' / 'scale.md').read_text()
TOOLS = REPOSITORY / 'tools'
STUB = """#!{python}
import json, os, sys
names = ('MASTER_ADDR', 'MASTER_PORT')
found = [sys.argv[1:], {{n: os.environ[n] for n in names if n in os.environ}}]
open({out!r}, 'w').write(json.dumps(found))
"""


@pytest.fixture
def stubs(tmp_path):
    """A PATH with torchrun, srun and scontrol that only write down what came."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('torchrun', 'srun'):
        (folder / name).write_text(
            STUB.format(python=PYTHON, out=str(tmp_path / f'{name}.json'))
        )
    (folder / 'scontrol').write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "show hostnames node[3-4]" ] && echo node3 && '
        'echo node4\n'
    )
    for path in folder.iterdir():
        path.chmod(0o755)

    def call(script, *words, **variables):
        done = subprocess.run(
            ['bash', TOOLS / script, *words],
            capture_output=True,
            text=True,
            env={'PATH': f'{folder}:/usr/bin:/bin', **variables},
        )
        program = 'srun' if 'slurm' in script else 'torchrun'
        path = tmp_path / f'{program}.json'
        return done, json.loads(path.read_text()) if path.exists() else None

    return call


def test_torchrun_on_one_machine(stubs):
    done, (words, _) = stubs('torchrun_train.sh', 'NAME', '8', '--seed', '0')
    assert done.returncode == 0, done.stderr
    assert words == (
        '--standalone --nproc_per_node 8 -m eca_mmdet.cli train NAME '
        '--launcher pytorch --seed 0'
    ).split(' ')
    args = build_parser().parse_args(words[5:])
    assert (args.command, args.launcher, args.seed) == ('train', 'pytorch', 0)


def test_torchrun_on_several(stubs):
    variables = {'NODES': '2', 'MASTER_ADDR': 'node0', 'MASTER_PORT': '29511'}
    done, (words, _) = stubs('torchrun_train.sh', 'my config.py', '4', **variables)
    assert done.returncode == 0, done.stderr
    meeting = '--nnodes 2 --rdzv_backend c10d --rdzv_endpoint node0:29511'
    assert words[:6] == meeting.split(' ')
    assert words[-4:] == ['train', 'my config.py', '--launcher', 'pytorch']


@pytest.mark.parametrize(
    ('words', 'variables', 'code', 'fault'),
    [
        ('torchrun_train.sh', {}, 2, 'usage: '),
        ('torchrun_train.sh NAME', {}, 2, 'usage: '),
        ('torchrun_train.sh NAME many', {}, 2, 'usage: '),
        ('torchrun_train.sh NAME 8', {'NODES': '2'}, 1, 'MASTER_ADDR must name one'),
        ('slurm_train.sh', {}, 2, 'usage: sbatch'),
        ('slurm_train.sh NAME', {}, 1, 'for sbatch'),
    ],
)
def test_scripts_used_wrongly(stubs, words, variables, code, fault):
    done, ran = stubs(*words.split(), **variables)
    assert ran is None and done.returncode == code and fault in done.stderr


def test_slurm(stubs):
    """Also that what srun would start is a command line of ours."""
    variables = {'SLURM_JOB_ID': '123456', 'SLURM_JOB_NODELIST': 'node[3-4]'}
    done, (words, master) = stubs('slurm_train.sh', 'NAME', '--amp', **variables)
    assert done.returncode == 0, done.stderr
    assert words[:3] == ['--kill-on-bad-exit=1', 'eca-mmdet', 'train']
    args = build_parser().parse_args(words[2:])
    assert (args.launcher, args.resume, args.amp) == ('slurm', 'auto', True)
    assert args.config == 'NAME'
    assert master == {'MASTER_ADDR': 'node3', 'MASTER_PORT': '23456'}
    done, (words, _) = stubs('slurm_train.sh', 'NAME', '--resume', 'a.pth', **variables)
    assert build_parser().parse_args(words[2:]).resume == 'a.pth'


@pytest.mark.parametrize('script', ['torchrun_train.sh', 'slurm_train.sh'])
def test_scripts_are_clean(script):
    """They parse, can be started, and sbatch's own lines precede every command."""
    path = TOOLS / script
    assert os.access(path, os.X_OK)
    subprocess.run(['bash', '-n', path], check=True)
    lines = path.read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith('#SBATCH')]
    first = next(i for i, line in enumerate(lines) if line and line[0] != '#')
    assert all(index < first for index in options)  # sbatch reads none after it
    assert all(re.match(r'#SBATCH --[a-z-]+(=\S+)?$', lines[i]) for i in options)
    if shutil.which('shellcheck'):
        subprocess.run(['shellcheck', path], check=True)


@pytest.mark.slow
def test_torchrun_for_real(tmp_path):
    """Two machines' worth of torchrun, by the script; both find the whole job."""
    worker = tmp_path / 'eca_mmdet' / 'cli.py'
    worker.parent.mkdir()
    (worker.parent / '__init__.py').touch()
    worker.write_text(
        'import os, sys\n'
        "names = ('LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT')\n"
        "with open('rank' + os.environ['RANK'], 'w') as file:\n"
        '    print(*map(os.environ.get, names), *sys.argv[1:], file=file)\n'
    )
    variables = {
        **os.environ,
        'PATH': f'{os.path.dirname(PYTHON)}:{os.environ["PATH"]}',
        'NODES': '2',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(free_port()),
        'PYTHONPATH': str(tmp_path),
    }
    machines = [
        subprocess.Popen(
            [TOOLS / 'torchrun_train.sh', 'NAME', '1'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=variables,
        )
        for _ in range(2)
    ]
    for machine in machines:
        out, _ = machine.communicate(timeout=120)
        assert machine.returncode == 0, out
    found = {(tmp_path / f'rank{rank}').read_text() for rank in range(2)}
    assert len(found) == 1  # one meeting point for both
    assert re.fullmatch(r'0 2 \d+ train NAME --launcher pytorch\n', found.pop())


def rows(heading):
    """The cells of the table below a heading of the document."""
    section = DOCS[DOCS.index(heading) :]
    lines = section.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('|'))
    for line in lines[first + 2 :]:
        if not line.startswith('|'):
            return
        yield [cell.strip() for cell in line.strip('|').split('|')]


def test_learning_rates_of_the_document(mmdet_ready, monkeypatch):
    """Each row is what the command would set, of the config that it names."""
    from mmengine.config import Config

    path = REPOSITORY / 'configs/mask_rcnn/mask-rcnn_eca-r50_fpn_4xb2-1x_coco.py'
    original = Config.fromfile(str(path))
    table = list(rows('## Learning rate and batch'))
    assert [int(row[0]) for row in table] == [1, 1, 2, 4, 8, 16, 64]
    for world, batch, accumulate, images, lr, steps in table:
        cfg = copy.deepcopy(original)
        cfg.launcher = 'pytorch'
        cfg.train_dataloader.batch_size = int(batch)
        cfg.optim_wrapper.accumulative_counts = int(accumulate)
        monkeypatch.setenv('WORLD_SIZE', world)
        assert engine_config.images_per_step(cfg) == int(images)
        engine_config.apply_lr_policy(cfg, scale=True)
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(float(lr), rel=1e-9)
        per_rank = -(-117_266 // int(world))
        assert int(steps) == -(-per_rank // int(batch))


def test_scripts_and_options_that_the_document_names_exist():
    for name in re.findall(r'tools/\w+\.\w+', DOCS):
        assert (REPOSITORY / name).is_file(), name
    help_text = subprocess.run(
        [PYTHON, '-m', 'eca_mmdet.cli', 'train', '--help'],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    ).stdout
    for option in ('--dist-timeout', '--seed', '--deterministic', '--no-scale-lr'):
        assert option in DOCS and option in help_text
    assert f'({TIMEOUT_S} s)' in DOCS
