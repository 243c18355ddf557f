"""The list of mechanisms, and the properties and costs that are recomputed."""

import json

import pytest
import torch
from torch import nn

from eca_mmdet.analysis import attention as analysis
from eca_mmdet.catalog import mechanisms
from eca_mmdet.catalog.mechanisms import (
    KEYS,
    LAYER_MODULES,
    LAYER_NAMES,
    MECHANISMS,
    find_mechanism,
)
from eca_mmdet.catalog.published import published
from eca_mmdet.utils.errors import UserError
from tests.references.attention import LAYERS
from tests.tolerances import assert_near

NAMES = {row.name: row for row in MECHANISMS}


def test_every_mechanism_of_the_comparison_is_there():
    """Those of the article and the paper, and every layer that we register."""
    from mmengine.registry import MODELS

    import eca_mmdet

    eca_mmdet.registration.register()
    article = {row['name'] for row in published()['attention']['properties']['rows']}
    assert article <= NAMES.keys()
    variants = {row['name'] for row in published()['attention']['imagenet']['rows']}
    assert variants - {one.imagenet or one.name for one in MECHANISMS} == {'Vanilla'}
    package = 'eca_mmdet.models.attention.'
    ours = {
        name: kind.__module__.removeprefix(package)
        for name, kind in MODELS.module_dict.items()
        if kind.__module__.startswith(package) and name != 'SEGC'
    }
    assert ours == LAYER_MODULES
    types = {row.type for row in MECHANISMS}
    assert types == ours.keys() | {'ContextBlock', 'NonLocal2d'} == LAYERS.keys()
    assert all(getattr(eca_mmdet, name).__name__ == name for name in ours)
    assert len(set(KEYS)) == len(KEYS) == len(NAMES)


def test_unknown_mechanism_names_the_near_ones():
    with pytest.raises(UserError, match=r'Did you mean cbam') as caught:
        find_mechanism('cbma')
    assert all(key in str(caught.value) for key in KEYS)
    with pytest.raises(UserError, match=r'Did you mean a2'):
        find_mechanism('A2-Net')
    with pytest.raises(UserError, match=r"no mechanism 'xyzzy'. There are"):
        find_mechanism('xyzzy')


@pytest.mark.parametrize('row', MECHANISMS, ids=KEYS)
def test_names_of_a_mechanism_in_any_case(row):
    for name in (row.key, row.name, row.key.upper(), row.name.lower()):
        assert find_mechanism(name) is row
    first = next(other for other in MECHANISMS if other.type == row.type)
    assert find_mechanism(row.type) is first  # ECALayer is ECA, not CECA


def test_places(mmdet_ready):
    assert find_mechanism('se').plugin(18)['position'] == 'after_conv2'
    assert find_mechanism('se').plugin(50)['position'] == 'after_conv3'
    assert find_mechanism('bam').plugin(18)['position'] == 'after_stage'
    assert find_mechanism('se').plugin(50)['cfg'] == {
        'type': 'SqueezeExcite',
        'ratio': 16,
    }
    assert find_mechanism('se').plugin(50, narrow=True)['cfg']['ratio'] == 8


def test_published_parameters_are_those_of_the_tables():
    overhead = published()['attention']['properties']['rows']
    variants = published()['attention']['imagenet']['rows']
    stated = {row['name']: row['params'] for row in overhead}
    stated |= {row['name'].split(' (')[0]: row['params'] for row in variants}
    for one in MECHANISMS:
        text = stated.get(one.name, '(not given)')
        text = '' if text == '(not given)' else text.replace('k = 3', 'k')
        if one.name == 'CECA':
            text = 'k'  # timm's, in no table
        assert one.published.replace(' ', '') == text.replace(' ', ''), one.name


def test_places_are_those_of_the_configs(mmdet_ready):
    """The list says where a mechanism goes, and its config puts it there."""
    from mmengine.config import Config

    from eca_mmdet.catalog import configs as paths

    configs = paths.shipped_configs()
    for one in MECHANISMS:
        if one.key == 'eca':
            continue
        name = f'mask-rcnn_{one.key}-r50_fpn_4xb2-1x_coco'
        backbone = Config.fromfile(configs[name]).model.backbone
        plugins = backbone.get('plugins')
        if plugins is None:
            plugins = [dict(cfg=backbone.attention, position='after_conv3')]
        (plugin,) = plugins
        wanted = one.plugin(50)
        assert dict(plugin['cfg']) == wanted['cfg']
        assert plugin['position'] == wanted['position']
        assert plugin.get('stages') == wanted.get('stages'), one.key


def test_rows_say_what_the_layers_are(mmdet_ready):
    """Names in checkpoints, and which layers add to the map."""
    from eca_mmdet.models.attention import Gate

    for row in MECHANISMS:
        layer = analysis.build_layer(row, 64)
        assert layer._abbr_ == row.abbr
        assert row.adds == (not isinstance(layer, Gate))
        assert (row.published == '0') == (not layer.state_dict())
        assert (row.abbr in LAYER_NAMES) != (row.abbr in ('eca', 'se', 'fca'))


@pytest.mark.parametrize('channels', [64, 256])
@pytest.mark.parametrize('key', KEYS)
def test_properties_are_those_of_the_article(mmdet_ready, key, channels):
    mechanism = find_mechanism(key)
    found = analysis.properties(analysis.build_layer(mechanism, channels), channels)
    for row in published()['attention']['properties']['rows']:
        if row['name'] == mechanism.name:
            assert (found.reduces, found.interacts) == (row['DR'], row['CCI'])
    layer = LAYERS[mechanism.type]
    assert found.reduces == (layer.ratio is not None)
    assert found.interacts == layer.interacts
    if layer.ratio:
        # A gate on positions, and the weights of GC's mean, add one dimension.
        assert 0 < found.rank <= channels // layer.ratio + 1
    else:
        assert found.rank > channels * 0.8


def test_a_gate_that_ignores_the_map_has_no_properties():
    from eca_mmdet.models.attention import ChannelGate

    class Constant(ChannelGate):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(16))

        def factors(self, pooled):
            return self.weight.sigmoid().expand_as(pooled)

    with pytest.raises(RuntimeError, match='Constant: the gate does not depend'):
        analysis.properties(Constant(), 16)


@pytest.mark.parametrize('key', ['eca', 'cbam', 'gc', 'ge-theta'])
def test_jacobian_against_differences(mmdet_ready, key):
    """Two of its columns by central differences of the layer itself."""
    channels = 32
    layer = analysis.build_layer(find_mechanism(key), channels)
    matrix = analysis.jacobian(layer, channels, seed=3)
    generator = torch.Generator().manual_seed(3)
    for one in layer.parameters():  # the draws before the map's
        torch.randn(one.shape, generator=generator, dtype=one.dtype)
    x = torch.randn((1, channels, 8, 8), generator=generator, dtype=torch.float64)
    step = 1e-6
    for column in (0, 17):
        gates = []
        for sign in (1, -1):
            moved = x.clone()
            moved[0, column, 4, 3] += sign * step
            with torch.no_grad():
                y = layer(moved)
            additive = key == 'gc'
            gates.append((y - moved if additive else y / moved)[0, :, 4, 4])
        difference = (gates[0] - gates[1]) / (2 * step)
        assert_near(matrix[:, column], difference, 1e-6)


def test_operations_by_hand():
    """Two layers whose work can be written down."""
    with torch.device('meta'):
        conv = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        linear = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    assert analysis.operations(conv, (2, 8, 5, 7)) == 2 * 5 * 7 * 4 * 8 * 9
    assert analysis.operations(linear, (3, 6)) == 3 * 6 * 5 + 3 * 5
    eca = analysis.build_layer(find_mechanism('eca'), 64, 'meta')
    pooled, kernel, sigmoid, product = 64 * 20, 64 * 3, 64, 64 * 20
    counted = analysis.operations(eca, (1, 64, 4, 5))
    assert counted == pooled + kernel + sigmoid + product


def test_command_prints_the_table(command, mmdet_ready):
    code, out, err = command(
        'attention', 'list', 'se', 'eca', '--rounds', 1, '--size', 10, 16
    )
    assert (code, err) == (0, '')
    header, se, eca, *_ = out.splitlines()
    assert header.split()[:5] == ['mechanism', 'DR', 'CCI', 'rank', 'parameters']
    assert se.split()[:3] == ['SE', 'yes', 'yes']
    assert se.split()[4:6] == ['8,192', '2C^2/r'] and se.split()[-1] == '76.71'
    assert eca.split()[:6] == ['ECA', 'no', 'yes', '256', '5', 'k']
    assert eca.split()[-1] == '77.43'
    assert '256 channels, a map of 10 x 16' in out


def test_command_prints_json(command, mmdet_ready):
    code, out, _ = command(
        'attention', '--json', '--channels', 64, '--rounds', 1, '--size', 9, 9
    )
    found = json.loads(out)
    assert code == 0 and found['shape'] == [1, 64, 9, 9]
    rows = {row['key']: row for row in found['rows']}
    assert list(rows) == list(KEYS)
    assert rows['se-var3']['parameters'] == 64**2
    assert rows['gsop']['reported_top1'] == 77.68
    assert rows['cbam']['reported_top1'] == 77.34
    assert rows['nl']['reported_top1'] is None
    assert all(row['milliseconds'] > 0 and row['gflops'] > 0 for row in found['rows'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('cbma',), 'Did you mean cbam'),
        (('se', '--channels', 8), 'SE cannot have 8 channels: ratio must be'),
        (('se-gc1', '--channels', 40), 'groups must divide the 40 channels'),
        (('cbam', '--size', 3, 3), '--size 3 3: CBAM needs a map of 4 pixels'),
        (('ge-theta', '--size', 2, 4), '--size 2 4: GETheta needs a map of 5 pixels'),
    ],
)
def test_command_refuses(command, mmdet_ready, arguments, message):
    code, out, err = command('attention', 'list', *arguments)
    assert (code, out) == (2, '') and message in err
    assert len(err.splitlines()) == 1


def test_list_is_light():
    """The command line reads it for --help."""
    source = mechanisms.__file__
    text = open(source).read()
    assert 'torch' not in text.replace('mmengine', '') and 'import mm' not in text
