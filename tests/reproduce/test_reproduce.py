"""`eca-mmdet paper reproduce`: what it finds, plans, compares and reports."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eca_mmdet.catalog.published import Number, PublishedRow, published_rows
from eca_mmdet.reproduce.plan import CATEGORY_IDS, Job, make_plan, open_coco, scan
from eca_mmdet.reproduce.run import (
    RowOutcome,
    Settings,
    _inputs,
    _record_path,
    as_json,
    as_tables,
    command_of,
    compare,
    measured_before,
    overall,
)
from eca_mmdet.utils.errors import CommandError, UserError
from eca_mmdet.utils.io import run_logged
from tests.references.networks import (
    AuthorsResNet,
    detector_state,
    randomise,
    retinanet_state,
    save_as_the_authors,
)


@pytest.fixture
def coco(shapes, tmp_path):
    """The held-out shapes in the layout of COCO."""
    root = tmp_path / 'coco'
    (root / 'annotations').mkdir(parents=True)
    shutil.copy(
        shapes / 'annotations' / 'val.json',
        root / 'annotations' / 'instances_val2017.json',
    )
    shutil.copytree(shapes / 'val', root / 'val2017')
    return root


def test_coco_folder(coco):
    found = open_coco(coco)
    assert found.counts['images'] == 4 and found.counts['categories'] == 3
    assert found.departure.startswith("not COCO's val2017: 4 images, ")
    assert len(found.sha256) == 64
    assert found.options()[0] == f'test_dataloader.dataset.data_root={coco}/'
    assert len(found.options('train')) == 3


def test_folders_that_a_config_cannot_name(coco, tmp_path, command):
    for name in ('a,b', 'a b', 'a(b)'):
        coco = coco.rename(tmp_path / name)
        words = ('paper', 'reproduce', '--coco', coco, '--weights', tmp_path)
        code, _, err = command(*words, '--out', tmp_path / 'out')
        assert code == 2 and err.endswith('[option-invalid]\n')


def test_a_part_of_val2017_is_a_subset(coco_tiny):
    assert open_coco(coco_tiny).departure == 'a subset: 80 of 5000 images'


def test_the_whole_departs_in_nothing(coco, monkeypatch):
    from eca_mmdet.reproduce import plan

    monkeypatch.setattr(plan, 'WHOLE', open_coco(coco).counts)
    assert 'or other categories' in open_coco(coco).departure
    monkeypatch.setattr(plan, 'CATEGORY_IDS', [1, 2, 3])
    assert open_coco(coco).departure == ''
    assert len(CATEGORY_IDS) == 80


@pytest.mark.parametrize(
    ('harm', 'error'),
    [
        (lambda root: shutil.rmtree(root), 'file-not-found'),
        (lambda root: shutil.rmtree(root / 'val2017'), 'file-not-found'),
        (lambda root: shutil.rmtree(root / 'annotations'), 'file-not-found'),
        (lambda root: next((root / 'val2017').iterdir()).unlink(), 'no-images'),
        (
            lambda root: (root / 'annotations' / 'instances_val2017.json').unlink(),
            'file-not-found',
        ),
    ],
)
def test_folders_that_are_not_coco(coco, harm, error):
    harm(coco)
    with pytest.raises(UserError) as raised:
        open_coco(coco)
    assert raised.value.code == error


SIZES = {18: (3, 5, 7, 7), 50: (3, 3, 7, 7), 101: (3, 3, 5, 7)}


def network(depth, kernel_sizes=None):
    """Of the usual width, as shipped configs take it."""
    return AuthorsResNet(depth, kernel_sizes or SIZES[depth], width=64)


@pytest.fixture
def weights(tmp_path):
    """Files under names that say nothing, some of them useless."""
    folder = tmp_path / 'weights'
    (folder / 'deeper').mkdir(parents=True)
    fifty = randomise(network(50))
    torch.save(
        {'state_dict': detector_state(fifty, 1, masks=True)},
        folder / 'deeper' / 'b.pth',
    )
    torch.save(
        {'state_dict': retinanet_state(fifty), 'meta': {'mmdet_version': '3.3.0'}},
        folder / 'c.pth',
    )
    hundred = randomise(network(101))
    torch.save({'state_dict': detector_state(hundred, 3)}, folder / 'a.pth')
    torch.save(retinanet_state(hundred), folder / 'd.pth')
    save_as_the_authors(randomise(network(50, (3, 5, 5, 7))), folder / 'z.pth.tar')
    whole = (folder / 'a.pth').read_bytes()
    (folder / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    torch.save({'x': torch.zeros(3)}, folder / 'other.pth')
    (folder / 'readme.txt').write_text('no weights')
    return folder


@pytest.mark.openmmlab
def test_files_are_known_by_what_they_hold(weights):
    found, notes = scan(weights)
    about = {
        str(one.path.relative_to(weights)): (
            *(one.detector, one.about.depth, one.attention, one.version),
        )
        for one in found
    }
    assert about == {
        'a.pth': ('Faster R-CNN', 101, 'ECA', 'v3'),
        'c.pth': ('RetinaNet', 50, 'ECA', 'v3'),
        'd.pth': ('RetinaNet', 101, 'ECA', 'v1'),
        'deeper/b.pth': ('Mask R-CNN', 50, 'ECA', 'v1'),
        'z.pth.tar': ('', 50, 'ECA', ''),
    }
    assert [one.note for one in found if one.note] == [
        'taken for MMDetection v1, which its names cannot tell'
    ]
    assert len(notes) == 2
    assert 'cut.pth' in notes[0] and 'other.pth: unknown' in notes[1]
    with pytest.raises(UserError) as error:
        scan(weights / 'a.pth')
    assert error.value.code == 'file-not-found'


def test_blocks_that_are_no_gates_are_told_apart(tmp_path):
    plain = {
        name: value
        for name, value in detector_state(network(50), 3).items()
        if '.eca.' not in name
    }
    extra = {
        'none': {},
        'GC': {'backbone.layer2.0.context_block.conv_mask.weight': torch.zeros(1)},
        '1 NL': {'backbone.layer3.4.nonlocal_block.g.weight': torch.zeros(1)},
    }
    for index, added in enumerate(extra.values()):
        torch.save(plain | added, tmp_path / f'{index}.pth')
    assert [one.attention for one in scan(tmp_path)[0]] == list(extra)


def plan_of(weights, train=False):
    jobs = make_plan(published_rows(), scan(weights)[0], train)
    return {job.row.row: job for job in jobs}


@pytest.mark.openmmlab
def test_plan_of_each_kind(weights):
    jobs = plan_of(weights)
    assert [job.row.row for job in jobs.values()] == [r.row for r in published_rows()]
    v1 = jobs['mask:r50:eca']
    assert (v1.action, v1.convert, v1.released) == ('test', True, True)
    assert v1.config == 'mask-rcnn_eca-r50-k3377_fpn_v1_coco' and v1.options == ()
    v3 = jobs['retinanet:r50:eca']
    assert (v3.action, v3.convert, v3.released) == ('test', False, False)
    assert v3.config == 'retinanet_eca-r50_fpn_4xb2-1x_coco'
    assert v3.options == ('model.backbone.kernel_sizes=(3,3,7,7)',)
    assert jobs['faster:r101:eca'].options == ()  # the shipped ones
    guessed = jobs['retinanet:r101:eca']
    assert guessed.config == 'retinanet_eca-r101-k3357_fpn_v1_coco'
    assert guessed.note and guessed.convert
    none = jobs['faster:r50:eca']
    assert none.action == 'none' and 'no weights' in none.note


def test_plan_trains_what_has_a_backbone_alone(weights):
    jobs = plan_of(weights, train=True)
    job = jobs['faster:r50:eca']
    assert job.action == 'train' and job.weights.name == 'z.pth.tar'
    assert job.config == 'faster-rcnn_eca-r50_fpn_4xb2-1x_coco' and job.options == ()
    assert jobs['mask:r50:eca'].action == 'test'
    assert 'neither the detector nor ImageNet' in jobs['faster:r50:se'].note


@pytest.mark.openmmlab
def test_other_kernel_sizes_of_a_v1_detector(tmp_path):
    net = randomise(network(50, (3, 5, 5, 7)))
    torch.save(detector_state(net, 1), tmp_path / 'x.pth')
    job = plan_of(tmp_path)['faster:r50:eca']
    assert job.config == 'faster-rcnn_eca-r50-k5555_fpn_v1_coco'
    assert job.options == ('model.backbone.kernel_sizes=(3,5,5,7)',)


def test_v1_detectors_without_a_config_are_told(tmp_path):
    state = detector_state(network(50), 1)
    for name in [name for name in state if '.eca.' in name]:
        channels = 256 * 2 ** (int(name.split('layer')[1][0]) - 1)
        stem = name.rsplit('.eca.', 1)[0]
        del state[name]
        state[f'{stem}.se.fc.0.weight'] = torch.zeros(channels // 16, channels)
        state[f'{stem}.se.fc.2.weight'] = torch.zeros(channels, channels // 16)
    torch.save(state, tmp_path / 'x.pth')
    job = plan_of(tmp_path)['faster:r50:se']
    assert job.action == 'none' and "tests MMDetection v1's Faster R-CNN with SE" in (
        job.note
    )


def test_networks_of_other_widths_and_classes_are_of_no_row(tmp_path):
    narrow = AuthorsResNet(50, SIZES[50], width=8)
    torch.save(detector_state(narrow, 3), tmp_path / 'narrow.pth')
    torch.save(detector_state(network(50), 3, classes=5), tmp_path / 'five.pth')
    assert len(scan(tmp_path)[0]) == 2
    assert plan_of(tmp_path)['faster:r50:eca'].action == 'none'


def test_of_several_files_none_is_chosen(tmp_path):
    """A work folder has an epoch_N.pth for each epoch."""
    state = detector_state(network(50), 3)
    for name in ('epoch_2.pth', 'epoch_1.pth'):
        torch.save(state, tmp_path / name)
    job = plan_of(tmp_path)['faster:r50:eca']
    assert job.action == 'none'
    assert job.note == (
        f'several files are of this row: {tmp_path}/epoch_1.pth, '
        f'{tmp_path}/epoch_2.pth; leave one'
    )


def test_results_of_this_command_are_not_searched(tmp_path):
    (tmp_path / 'out' / 'runs').mkdir(parents=True)
    torch.save(detector_state(network(50), 3), tmp_path / 'out' / 'runs' / 'x.pth')
    assert len(scan(tmp_path)[0]) == 1
    assert scan(tmp_path, leave_out=tmp_path / 'out') == ([], [])


@pytest.fixture
def job_and_settings(coco, tmp_path):
    weights = tmp_path / 'x.pth'
    weights.write_bytes(b'weights')
    row = replace(row_of(), config='mask-rcnn_eca-r50_fpn_4xb2-1x_coco')
    return Job(row, 'test', row.config, weights), Settings(open_coco(coco), tmp_path)


def write_record(job, settings, edit=str):
    """A record as the command writes it, with its text edited."""
    content = {'inputs': _inputs(job, settings), 'seconds': 1}
    content['metrics'] = {'results': {'bbox': {'metrics': {}}}}
    path = _record_path(job, settings)
    path.parent.mkdir(exist_ok=True)
    path.write_text(edit(json.dumps(content)))


def test_a_record_is_of_its_inputs_only(job_and_settings):
    """Other weights, annotations, options or another config are measured again."""
    job, settings = job_and_settings
    write_record(job, settings)
    assert measured_before(job, settings)['seconds'] == 1
    others = [
        (replace(job, options=('a=1',)), settings),
        (replace(job, config='mask-rcnn_se-r50_fpn_4xb2-1x_coco'), settings),
        (job, replace(settings, options=('b=1',))),
        (job, replace(settings, coco=replace(settings.coco, sha256='0'))),
    ]
    assert [measured_before(*other) for other in others] == [None] * 4
    job.weights.write_bytes(b'others')
    assert measured_before(job, settings) is None


@pytest.mark.parametrize(
    'harm',
    [
        lambda text: '',
        lambda text: text[:40],
        lambda text: 'null',
        lambda text: text.replace('"seconds": 1', '"seconds": null'),
        lambda text: text.replace('"results"', '"other"'),
    ],
)
def test_damaged_records_are_measured_again(job_and_settings, harm):
    write_record(*job_and_settings, harm)
    assert measured_before(*job_and_settings) is None


def test_programs_that_cannot_be_started(coco, tmp_path):
    settings = Settings(open_coco(coco), tmp_path, prefix=('no-such-program', '-n'))
    with pytest.raises(CommandError, match='no-such-program cannot be started'):
        run_logged(command_of(['test'], settings), tmp_path / 'log')


@pytest.mark.openmmlab
def test_converted_detectors_keep_their_v1_config(tmp_path, command):
    net = randomise(network(50, (5, 5, 5, 5)))
    torch.save(detector_state(net, 1), tmp_path / 'v1.pth')
    code, _, err = command(
        'weights', 'convert', tmp_path / 'v1.pth', tmp_path / 'converted.pth'
    )
    assert code == 0, err
    (tmp_path / 'v1.pth').unlink()
    job = plan_of(tmp_path)['faster:r50:eca']
    assert job.config == 'faster-rcnn_eca-r50-k5555_fpn_v1_coco'
    assert not job.convert and job.released


def row_of(box=38.0, mask=None):
    def numbers(ap):
        return {'AP': Number(ap, ('authors',)), 'APS': Number(20.0, ())}

    return PublishedRow(
        *('mask:r50:eca', 'Mask R-CNN', 50, 'ECA', 'x'),
        Number(44.18, ('authors',)),
        Number(275.69, ('authors',)),
        numbers(box),
        {} if mask is None else numbers(mask),
    )


@pytest.mark.parametrize(
    ('measured', 'tolerance', 'expected'),
    [
        (0.380, 0.1, 'within'),
        (0.3814, 0.1, 'within'),  # 38.1 as printed
        (0.3816, 0.1, 'outside'),  # 38.2
        (0.3786, 0.1, 'within'),
        (0.3784, 0.1, 'outside'),
        (0.3844, 0.4, 'within'),
        (0.3846, 0.4, 'outside'),
        (0.40, 2.0, 'within'),
        (None, 0.1, 'outside'),
    ],
)
def test_verdict_compares_printed_ap(measured, tolerance, expected):
    found = compare(row_of(), {'box': {'AP': measured}}, tolerance)
    assert found['box'].verdict == overall(found) == expected
    assert found['box'].difference['APS'] is None
    if measured is not None:
        assert found['box'].measured['AP'] == pytest.approx(measured * 100)
        assert found['box'].difference['AP'] == pytest.approx(measured * 100 - 38)


def test_every_task_must_be_within():
    row = row_of(mask=35.0)
    both = compare(row, {'box': {'AP': 0.38}, 'mask': {'AP': 0.30}}, 0.1)
    assert [one.verdict for one in both.values()] == ['within', 'outside']
    assert overall(both) == 'outside'
    alone = compare(row, {'box': {'AP': 0.38}}, 0.1)
    assert overall(alone) == 'outside'


def outcomes():
    row, other = row_of(mask=35.0), row_of(mask=36.0)
    measured = {'box': {'AP': 0.3814, 'APS': None}, 'mask': {'AP': 0.35, 'APS': 0.25}}
    cost = {'params_m': 44.175, 'gflops': 275.689}
    compared = compare(row, measured, 0.1)
    return [
        RowOutcome(row, 'within', 'a note', cost, compared, 0.1, True),
        RowOutcome(other, 'no weights', 'none here', cost, {}),
    ]


def test_tables_have_a_measured_row_under_each_reported_one():
    box, mask, mark, note = as_tables(outcomes(), '').split('\n\n')
    assert note == 'mask:r50:eca: a note'
    rows = [line.split() for line in box.splitlines()[2:]]
    assert rows[0] == [
        *('mask:r50:eca', 'reported', '44.18', '275.69', '38.0', '20.0', '†'),
    ]
    assert rows[1] == [
        *('measured', '44.17', '275.69', '38.1', 'n/a', 'n/a', 'n/a', 'n/a', 'n/a'),
        *('within', '0.1', '(released)'),
    ]
    assert rows[2][:4] == ['difference', '-0.01', '+0.00', '+0.1']
    assert rows[4] == ['measured', '44.17', '275.69', *'no weights: none here'.split()]
    assert mask.startswith('mask AP') and '+5.0' in mask and mark.startswith('†')


def test_departures_from_val2017_are_marked_everywhere():
    for style in ('table', 'md', 'latex'):
        text = as_tables(outcomes(), 'a subset: 3 of 5000 images', style)
        assert 'NOT COMPARABLE: measured on a subset: 3 of 5000' in text
        assert text.count('measured (not on val2017)') == 4
        assert text.count('(subset)') == 2
    text = as_tables(outcomes(), '', 'md', ['a.b=1', 'c=2'])
    assert text.startswith('**measured with a.b=1 c=2**')


def test_reports_for_programs():
    found = json.loads(json.dumps(as_json(outcomes(), {'departure': ''}, ['a note'])))
    first, second = found['rows']
    assert first['verdict'] == 'within' and second['verdict'] == 'no weights'
    assert first['published']['box']['AP']['value'] == 38.0
    assert first['measured']['box']['measured']['AP'] == pytest.approx(38.14)
    assert first['cost']['gflops'] == 275.689 and second['measured'] == {}


@pytest.mark.parametrize(
    ('setting', 'expected'),
    [
        ({}, [sys.executable, '-m', 'eca_mmdet.cli', 'test', 'CONFIG']),
        (
            {'devices': 4, 'launcher': 'pytorch'},
            [
                *(sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node'),
                *('4', '--standalone', '-m', 'eca_mmdet.cli', 'test'),
                *('--launcher', 'pytorch', 'CONFIG'),
            ],
        ),
        (
            {'launcher': 'slurm', 'prefix': ('srun', '-n', '8')},
            [
                *('srun', '-n', '8', sys.executable, '-m', 'eca_mmdet.cli', 'test'),
                *('--launcher', 'slurm', 'CONFIG'),
            ],
        ),
    ],
)
def test_commands_of_each_launcher(coco, setting, expected):
    made = Settings(open_coco(coco), Path('out'), **setting)
    assert command_of(['test', 'CONFIG'], made) == expected


def test_a_failed_command_tells_its_last_line(coco, tmp_path):
    words = ['test', 'no-such', 'no-such.pth']
    words = command_of(words, Settings(open_coco(coco), tmp_path))
    with pytest.raises(
        CommandError, match="exit code 2: .* 'no-such.pth' does not exist"
    ):
        run_logged(words, tmp_path / 'log')
    assert '-m eca_mmdet.cli test no-such' in (tmp_path / 'log').read_text()


COCO = ('--coco', 'COCO')
HERE = (*COCO, '--weights', '.')


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (('--coco', 'no', '--weights', '.'), '[file-not-found]'),
        ((*COCO, '--weights', 'no'), '[file-not-found]'),
        ((*HERE, '--train'), '[file-not-found]'),
        ((*HERE, '--rows', 'x'), 'no published row'),
        ((*HERE, '--published', 'no'), '[file-not-found]'),
        ((*HERE, '--devices', '0'), '[option-invalid]'),
        ((*HERE, '--out', ''), '[option-invalid]'),
        ((*HERE, '--out', 'file'), 'cannot be a folder'),
        ((*HERE, '--out', 'mine'), "has 'tables.txt' in"),
        ((*HERE, '--launcher', 'slurm'), '[option-conflict]'),
        ((*HERE, '--launch-with', 'srun'), '[option-conflict]'),
        (
            (*HERE, '--launcher', 'mpi', '--launch-with', 'mpirun "-n'),
            '[option-invalid]',
        ),
    ],
)
def test_bad_usage(command, coco, tmp_path, monkeypatch, words, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'tables.txt').write_text('')
    code, out, err = command(
        'reproduce', *(coco if word == 'COCO' else word for word in words)
    )
    assert code == 2 and out == '' and error in err
    assert not (tmp_path / 'runs').exists()
