"""Registration of this package's classes with mmdet.

mmdet takes seconds to import, so ``import eca_mmdet`` must not import it (the command
line answers ``--help`` in a fraction of that). Building any part of mmdet makes its
registries import one of the packages below; an import hook registers our classes when
that import is complete. Where mmengine is loaded already, for example when a config's
``custom_imports`` name this package, registration happens at once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import io
import sys
import types
import warnings
from collections.abc import Iterator, Sequence

from eca_mmdet.mmcv_ops import extension as mmcv_ext
from eca_mmdet.utils.errors import MissingPackageError

_PACKAGES = ('mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation', 'mmdet.models')
"""Packages that mmdet's registries import to look up a name."""

_ROOT_REGISTRY = 'mmengine.registry'
"""Plugin layers register here as well, for mmcv and the other OpenMMLab packages."""

_LAYERS = 'eca_mmdet.models.attention'

_MODULES = (
    _LAYERS,
    'eca_mmdet.models.backbones',
    'eca_mmdet.models.plugins',
    'eca_mmdet.models.legacy',
    'eca_mmdet.models.mask_targets',
    'eca_mmdet.checkpoints.initializer',
    'eca_mmdet.engine.coco_dataset',
    'eca_mmdet.evaluation.metric',
    'eca_mmdet.engine.load_from',
    'eca_mmdet.engine.mixed_precision',
)
"""Every module that registers a class with mmdet, or replaces a method, on import."""

_NOISE = 'Could not import OneDL. Skipping OneDL datasets.'
"""What onedl-mmdetection prints on import."""

_registered = False


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Hide what mmdet and mmcv print and warn about optional parts on import.

    Without the garbage collector, which looks at a million objects again and again.
    """
    from eca_mmdet.utils.io import no_garbage_collection

    captured = io.StringIO()
    try:
        with (
            no_garbage_collection(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(captured),
        ):
            warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
            warnings.filterwarnings('ignore', category=ImportWarning)
            warnings.filterwarnings('ignore', category=DeprecationWarning)
            warnings.filterwarnings('ignore', category=SyntaxWarning)
            yield
    finally:
        for line in captured.getvalue().splitlines():
            if line != _NOISE:
                sys.stdout.write(f'{line}\n')


def check_install() -> None:
    """Import mmdet.

    Raises:
        MissingPackageError: with the command that fixes the installation.
    """
    advice = (
        "Install one line of mmdet: pip install 'eca-mmdet[onedl]' (maintained) or "
        "pip install 'eca-mmdet[openmmlab]' (mmdet 3.3.0). More: eca-mmdet doctor."
    )
    try:
        with quiet_imports():
            import mmdet
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'{error.name} is not installed. {advice}') from error
    except AssertionError as error:
        # mmdet 3.3.0 asserts the range of mmcv and mmengine on import.
        raise MissingPackageError(
            f'mmdet refuses the packages beside it: {error} {advice}'
        ) from error
    version = tuple(int(part) for part in mmdet.__version__.split('.')[:2])
    if version < (3, 0):
        raise MissingPackageError(
            f'mmdet 3.x is needed; {mmdet.__version__} is installed. {advice}'
        )


def register() -> None:
    """Make every class of this package known to mmdet. Repeating it is free.

    Raises:
        MissingPackageError: mmdet cannot be imported.
    """
    global _registered
    if _registered:
        return
    _registered = True  # before the imports below, which come back here
    try:
        mmcv_ext.offer()
        check_install()
        with quiet_imports():
            for module in _MODULES:
                importlib.import_module(module)
        # By name: this module is below checkpoints, which it loads late.
        checkpoints = importlib.import_module('eca_mmdet.checkpoints.reading')
        checkpoints.allow_mmengine_checkpoints()
        # Our configs pin memory, which helps on a GPU and does nothing on a CPU.
        warnings.filterwarnings('ignore', "'pin_memory' argument is set as true")
    except BaseException:
        _registered = False
        raise


class _MmdetHook:
    """Import mmdet's packages quietly; call :func:`register` after the outermost."""

    def __init__(self) -> None:
        self._depth = 0

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in (*_PACKAGES, _ROOT_REGISTRY):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_then_register(module: types.ModuleType) -> None:
                self._depth += 1
                try:
                    with quiet_imports():
                        load(module)
                finally:
                    self._depth -= 1
                if fullname == _ROOT_REGISTRY:
                    importlib.import_module(_LAYERS)
                elif self._depth == 0:
                    register()

            spec.loader.exec_module = load_then_register  # type: ignore[method-assign]
        return spec


def on_import() -> None:
    """Register now if mmengine is loaded, otherwise when mmdet is."""
    mmcv_ext.offer()
    if not any(isinstance(finder, _MmdetHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MmdetHook())
    if 'mmengine' in sys.modules:
        register()
