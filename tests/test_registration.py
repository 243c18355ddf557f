"""What ``import eca_mmdet`` does, seen from fresh processes."""

import subprocess
import textwrap

import pytest

from tests.conftest import PYTHON, REPOSITORY


def run(code, **environment):
    """Run code in a fresh interpreter: (stdout, stderr), exit 0 expected."""
    import os

    done = subprocess.run(
        [PYTHON, '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    'first',
    [
        pytest.param('eca_mmdet', marks=pytest.mark.openmmlab),
        'mmengine',
        'mmdet.registry',
    ],
)
def test_classes_are_registered_in_any_order_of_imports(first):
    out, err = run(f"""
        import {first}, eca_mmdet
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules
        register_all_modules()
        backbone = MODELS.build(
            dict(type='ECAResNet', depth=18, kernel_sizes=3, base_channels=8)
        )
        print(type(backbone).__name__)
    """)
    assert (out, err) == ('ECAResNet', '')


@pytest.mark.openmmlab
@pytest.mark.slow
def test_mmdet_itself_can_be_imported_first():
    """mmdet's test.py imports these before it reads a config that could name us."""
    out, _ = run("""
        from mmdet.engine.hooks.utils import trigger_visualization_hook
        from mmdet.evaluation import DumpDetResults
        from mmcv.ops import nms
        import torch
        boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
        print(nms(boxes, torch.tensor([.7, .8, .9]), 0.5)[1].tolist())
        import eca_mmdet  # as a config's custom_imports do
        from mmdet.registry import HOOKS, MODELS
        print(MODELS.get('ECAResNet').__name__, HOOKS.get('MetricsFileHook').__name__)
    """)
    # (onedl-mmdetection prints that it lacks OneDL; that is before we are imported.)
    assert out.splitlines()[-2:] == ['[2, 1]', 'ECAResNet MetricsFileHook']


@pytest.mark.openmmlab
@pytest.mark.parametrize('first', ['eca_mmdet', 'mmengine'])
def test_layers_are_plugins_without_mmdet(first):
    out, err = run(f"""
        import {first}, eca_mmdet
        from mmcv.cnn import build_plugin_layer
        print(build_plugin_layer(dict(type='ECALayer'), in_channels=64)[0])
    """)
    assert (out, err) == ('eca', '')


@pytest.mark.openmmlab
def test_starting_python_does_not_import_us():
    """Only the self-contained finder of operators runs at start-up."""
    out, err = run("""
        import sys
        print([m for m in sys.modules if m.split('.')[0] in ('eca_mmdet', 'mmcv')])
        print([f.origin for f in sys.meta_path if hasattr(f, 'origin')])
    """)
    assert (out, err) == ("[]\n['eca_mmdet.mmcv_ops (torchvision)']", '')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('registry', 'name'),
    [
        ('MODELS', 'ECALayer'),
        pytest.param('HOOKS', 'MetricsFileHook', marks=pytest.mark.openmmlab),
        ('METRICS', 'CocoTableMetric'),
    ],
)
def test_a_lookup_in_any_registry_finds_us(registry, name):
    out, err = run(f"""
        import eca_mmdet
        from mmdet.registry import {registry}
        from mmengine.registry import WEIGHT_INITIALIZERS, init_default_scope
        init_default_scope('mmdet')
        print({registry}.get({name!r}).__name__)
        print(WEIGHT_INITIALIZERS.get('ECAPretrained').__name__)
    """)
    assert (out, err) == (f'{name}\nECAPretrained', '')


@pytest.mark.openmmlab
def test_compiled_extension_is_left_alone(tmp_path):
    """A finder that comes first (here a file) must win over ours."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / '_ext.py').write_text('nms = "compiled"')
    out, _ = run(
        """
        import eca_mmdet
        from eca_mmdet.mmcv_ops import extension as mmcv_ext
        import mmcv._ext
        print(mmcv._ext.nms, mmcv_ext.is_supplied())
        """,
        PYTHONPATH=str(tmp_path),
    )
    assert out == 'compiled False'


@pytest.mark.openmmlab
def test_without_extension_torchvision_serves(tmp_path):
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    out, _ = run(
        """
        import importlib.util
        import eca_mmdet
        from eca_mmdet.mmcv_ops import extension as mmcv_ext
        print(importlib.util.find_spec('mmcv._ext').origin)
        import mmcv._ext
        import torch
        box = torch.tensor([[0., 0, 9, 9]])
        print(mmcv._ext.nms(box, box[:, 0], 0.5, offset=0), mmcv_ext.is_supplied())
        print(mmcv._ext.carafe_forward.__name__)
        """,
        PYTHONPATH=str(tmp_path),
    )
    assert out.splitlines() == [
        'eca_mmdet.mmcv_ops (torchvision)',
        'tensor([0]) True',
        'carafe_forward',
    ]


@pytest.mark.sweep
@pytest.mark.openmmlab
@pytest.mark.parametrize(
    ('module', 'content', 'message'),
    [
        ('mmdet', None, 'mmdet is not installed. Install one line of mmdet'),
        (
            'mmdet',
            'assert False, "MMCV==2.2.0 is used but incompatible."',
            'MMCV==2.2.0 is used but incompatible. Install one line',
        ),
        ('mmdet', '__version__ = "2.28.2"', 'mmdet 3.x is needed; 2.28.2 is installed'),
        ('mmdet', 'import mmcv_missing', 'mmcv_missing is not installed'),
    ],
    ids=['no mmdet', 'refused mmcv', 'mmdet 2', 'no mmcv'],
)
def test_install_faults_are_named(tmp_path, module, content, message):
    if content is None:
        block = f'import sys; sys.modules[{module!r}] = None'
    else:
        (tmp_path / f'{module}.py').write_text(content)
        block = ''
    out, _ = run(
        f"""
        {block}
        import eca_mmdet.cli
        from eca_mmdet.registration import register
        from eca_mmdet.utils.errors import MissingPackageError
        try:
            register()
        except MissingPackageError as error:
            print(error)
        print(eca_mmdet.cli.main(['train', 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco']))
        """,
        PYTHONPATH=str(tmp_path),
    )
    assert message in out
    assert out.splitlines()[-1] == '2'


@pytest.mark.openmmlab
@pytest.mark.parametrize('place', ['FakeTensorMode()', 'torch.inference_mode()'])
def test_first_operator_inside_a_mode(place):
    """The import of torchvision is not recorded with the call."""
    out, _ = run(
        f"""
        import eca_mmdet, sys, torch
        from mmcv.ops import roi_align
        from torch._subclasses.fake_tensor import FakeTensorMode
        assert 'torchvision' not in sys.modules
        with {place}:
            print(*roi_align(torch.zeros(1, 3, 8, 8), torch.zeros(2, 5), 4).shape)
        """
    )
    assert out == '2 3 4 4'


@pytest.mark.openmmlab
@pytest.mark.parametrize('operator', ['nms', 'roi_align', 'deform_conv2d'])
def test_first_operator_inside_a_trace(operator):
    """As in mmdet's get_flops.py, which traces a model that has never run."""
    out, _ = run(
        f"""
        import eca_mmdet, sys, torch
        from mmcv.ops import deform_conv2d, nms, roi_align
        calls = {{
            'nms': (lambda b, s: nms(b, s, 0.5)[1], [(3, 4), (3,)]),
            'roi_align': (lambda x, r: roi_align(x, r, 2), [(1, 3, 8, 8), (2, 5)]),
            'deform_conv2d': (
                lambda *t: deform_conv2d(*t), [(1, 1, 3, 3), (1, 2, 3, 3), (1,) * 4]
            ),
        }}
        assert 'torchvision' not in sys.modules
        call, shapes = calls['{operator}']
        inputs = tuple(torch.zeros(shape) for shape in shapes)
        traced = torch.jit.trace(call, inputs, check_trace=False)
        print(torch.equal(traced(*inputs), call(*inputs)))
        """
    )
    assert out == 'True'
