"""Names: registry entries with their arguments, exports, tensors, configs."""

import hashlib
import importlib.util
import inspect
import json

import pytest

from tests.contract.recorded import check

SMALL_BACKBONES = {
    'ECAResNet-18': dict(type='ECAResNet', depth=18, kernel_sizes=3, base_channels=8),
    'ECAResNet-50': dict(
        type='ECAResNet', depth=50, kernel_sizes=(3, 5, 5, 7), base_channels=8
    ),
    'PluginResNet-18': dict(
        type='PluginResNet',
        depth=18,
        base_channels=8,
        attention=dict(type='CBAM', ratio=4),
    ),
    'PluginResNet-18-plain': dict(
        type='PluginResNet', depth=18, base_channels=8, memory='plain'
    ),
    'ECAMobileNetV2': dict(type='ECAMobileNetV2', widen_factor=0.25),
    'ECAResNetD': dict(type='ECAResNetD', arch='26t'),
    'TimmBackbone': dict(type='TimmBackbone', model_name='resnet18'),
    'TimmBackbone-ECA': dict(type='TimmBackbone', model_name='ecaresnet26t'),
    'AttentionNeck': dict(
        type='AttentionNeck',
        in_channels=16,
        num_levels=3,
        attention=dict(type='ECALayer'),
    ),
}


def our_classes():
    """Return {registry: {name: class}} of what the package registers."""
    import mmdet.registry
    import mmengine.registry

    found = {}
    for module in (mmengine.registry, mmdet.registry):
        for registry in vars(module).values():
            if isinstance(registry, mmengine.registry.Registry):
                for name, kind in registry.module_dict.items():
                    if kind.__module__.startswith('eca_mmdet'):
                        place = f'{registry.scope}.{registry.name}'
                        found.setdefault(place, {})[name] = kind
    return found


def arguments(kind):
    """Return the arguments that the package itself gives a class, as strings.

    Those of mmdet's constructors are left out: they depend on its version.
    """
    module = getattr(kind.__init__, '__module__', '')
    if not module.startswith('eca_mmdet'):
        return []
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in parameters
    ]


@pytest.mark.openmmlab
def test_registry(mmdet_ready):
    found = {
        registry: {name: arguments(kind) for name, kind in sorted(kinds.items())}
        for registry, kinds in sorted(our_classes().items())
    }
    check('registry.json', found, additions=True)


@pytest.mark.openmmlab
def test_exports():
    import eca_mmdet

    check('exports.json', {name: True for name in eca_mmdet.__all__}, additions=True)
    for name in eca_mmdet.__all__:
        assert getattr(eca_mmdet, name) is not None
    for module, name in (
        ('eca_mmdet.checkpoints', 'convert'),
        ('eca_mmdet.checkpoints', 'inspect'),
        ('eca_mmdet.checkpoints', 'read_weights'),
        ('eca_mmdet.export', 'OnnxDetector'),
        ('eca_mmdet.cli', 'main'),
    ):
        assert callable(getattr(importlib.import_module(module), name))


def test_weights_functions(folder):
    """The keyword arguments and results that a notebook uses."""
    from eca_mmdet import checkpoints as weights

    inspection = weights.inspect('backbone.pth')
    assert inspection.network == 'ECA-ResNet-50'
    read = weights.read_weights('backbone.pth')
    check(
        'signatures.json',
        {
            name: list(inspect.signature(getattr(weights, name)).parameters)
            for name in ('convert', 'inspect', 'read_weights', 'write_weights')
        },
    )
    assert {'state', 'path', 'extras'} <= set(dir(read)) and len(read.state) > 0


def tensors_of(module):
    """Return the number of tensors of a module and a digest of names and shapes."""
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    return dict(tensors=len(shapes), digest=digest[:16])


@pytest.mark.openmmlab
def test_tensors_of_backbones(mmdet_ready):
    from mmdet.registry import MODELS

    if importlib.util.find_spec('timm') is None:
        pytest.skip('timm is not installed')
    check(
        'backbone_tensors.json',
        {name: tensors_of(MODELS.build(cfg)) for name, cfg in SMALL_BACKBONES.items()},
    )


@pytest.mark.openmmlab
def test_tensors_of_attention_layers(mmdet_ready):
    """Names and shapes are listed: the layers are few and small."""
    from mmengine.registry import MODELS

    found = {}
    for name, kind in sorted(our_classes()['mmengine.model'].items()):
        given = [a for a in arguments(kind) if '=' not in a]
        if given == ['in_channels']:
            layer = MODELS.build(dict(type=name, in_channels=64))
            tensors = layer.state_dict().items()
            found[name] = {key: list(value.shape) for key, value in tensors}
    check('attention_tensors.json', found, additions=True)


def test_resolved_configs(eca_mmdet_command):
    """Every shipped config inherits what it did: a digest per top-level entry."""
    from mmengine.config import Config

    code, out, _ = eca_mmdet_command('configs --json')
    assert code == 0
    found = {}
    for name, path in json.loads(out).items():
        entries = Config.fromfile(path).to_dict()
        found[name] = {
            key: hashlib.sha256(
                json.dumps(entry, sort_keys=True, default=str).encode()
            ).hexdigest()[:8]
            for key, entry in sorted(entries.items())
        }
    check('resolved_configs.json', found, additions=True)
