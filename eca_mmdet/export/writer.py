"""ONNX and OpenVINO files of a detector: graph, names, shapes and metadata."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eca_mmdet import __version__
from eca_mmdet.compat import silent_onnx_log
from eca_mmdet.export.heads import Heads
from eca_mmdet.export.runtime import FORMAT, KEY, fault
from eca_mmdet.inference.detector import pipeline_steps
from eca_mmdet.utils.errors import RunError, UserError, require_package
from eca_mmdet.utils.text import clipped, first_line

OPSET = 17  # ONNX's of 2022: RoiAlign's half pixels came with 16
_ANY_SIZE = (160, 192)  # size of the image that a graph for any size is traced with
OUTPUTS = ('boxes', 'scores', 'labels', 'masks')

_THRESHOLDS = ('mask_threshold', 'score_threshold', 'nms_iou', 'max_per_image')
_KEPT = ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'Resize')
_LOADING = {'to_float32': False, 'color_type': 'color', 'imdecode_backend': 'cv2'}
"""How a user of the file reads images: mmcv's defaults."""


@dataclass(frozen=True)
class ExportPart:
    """A detector's part to export: 'all', 'backbone' or 'heads'.

    ``network`` takes the inputs in their order.
    """

    name: str
    model: Any
    network: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def require_packages(form: Literal['onnx', 'openvino']) -> None:
    """Import the packages of a format; raise MissingPackageError without one."""
    extra = 'export' if form == 'onnx' else form
    for name in ('onnx', 'onnxruntime' if form == 'onnx' else form):
        with _without_telemetry():
            require_package(name, 'the export', f"'eca-mmdet[{extra}]'")


def make_part(model: Any, name: str) -> ExportPart:
    """Return a part of mmdet's detector as a network with named inputs and outputs."""
    with torch.no_grad():
        count = len(model.backbone(torch.zeros(1, 3, *_ANY_SIZE)))
    features = tuple(f'feature_{index}' for index in range(count))
    if name == 'backbone':
        return ExportPart(name, model, model.backbone, ('images',), features)
    masks = bool(getattr(getattr(model, 'roi_head', None), 'with_mask', False))
    outputs = OUTPUTS[: 3 + masks]
    whole = name == 'all'
    inputs = (*(('images',) if whole else features), 'sizes')
    return ExportPart(name, model, Heads(model, whole), inputs, outputs)


def write_graph(path: Path, part: ExportPart, metadata: dict[str, Any]) -> None:
    """Trace the network and write it as ONNX, with names, shapes and metadata."""
    import onnx

    part.network.train(False)
    size = metadata.get('size')
    example = _example(part, *(size or _ANY_SIZE))
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                part.network,
                example,
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                dynamic_axes=_axes(part, any_size=size is None),
            )
    except (
        RuntimeError,
        ValueError,
        NotImplementedError,
        torch.onnx.errors.OnnxExporterError,
    ) as error:
        reason = first_line(error)
        raise RunError(
            f'PyTorch cannot write {part.name} of {type(part.model).__name__} as ONNX: '
            f'{reason}',
            code='unsupported-model',
        ) from error
    graph = onnx.load(str(path))
    _set_shapes(graph, part.model, metadata.get('max_per_image'))
    onnx.helper.set_model_props(graph, {KEY: json.dumps(metadata, ensure_ascii=True)})
    graph.producer_name, graph.producer_version = 'eca-mmdet', metadata['eca_mmdet']
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _example(part: ExportPart, height: int, width: int) -> tuple[Tensor, ...]:
    # Two images of unlike sides: nothing may take a batch for one, or H for W.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, height, width, generator=generator)
    sizes = torch.tensor([(height, width), (height - 16, width - 24)]).float()
    if part.name == 'backbone':
        return (images,)
    if part.name == 'heads':
        with torch.no_grad():
            return (*part.model.backbone(images), sizes)
    return images, sizes


def _axes(part: ExportPart, any_size: bool) -> dict[str, dict[int, str]]:
    axes = {}
    for name in (*part.inputs, *part.outputs):
        axes[name] = {0: 'batch'}
        if any_size and name == 'images':
            axes[name] |= {2: 'height', 3: 'width'}
        elif any_size and name.startswith('feature_'):
            axes[name] |= {2: f'height_{name[8:]}', 3: f'width_{name[8:]}'}
    return axes


def _set_shapes(graph: Any, model: Any, count: int | None) -> None:
    """Set the number of objects in the outputs' shapes, which the trace lacks."""
    for output in graph.graph.output:
        if output.name not in OUTPUTS:
            continue
        sides = [count, 4] if output.name == 'boxes' else [count]
        if output.name == 'masks':
            extractor = model.roi_head.mask_roi_extractor
            size = extractor.roi_layers[0].output_size
            with torch.no_grad():
                region = torch.zeros(1, extractor.out_channels, *size)
                sides += model.roi_head.mask_head(region).shape[2:]
        dims = output.type.tensor_type.shape.dim
        for dim, side in zip(dims[1:], sides, strict=True):
            dim.dim_value = side


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporter's warnings about its own age and about constants.

    Constants that matter fail the check at other sizes.
    """
    with warnings.catch_warnings(), silent_onnx_log():
        warnings.simplefilter('ignore')
        yield


def convert_to_openvino(
    graph: Path, paths: Sequence[Path], metadata: dict[str, Any]
) -> None:
    """Convert an ONNX file to OpenVINO's XML file and weights, at ``paths``."""
    openvino = _import_openvino()
    try:
        model = openvino.Core().read_model(str(graph))
        if model.has_rt_info('framework'):  # ONNX's metadata, once more
            del model.rt_info['framework']
        model.set_rt_info(json.dumps(metadata, ensure_ascii=True), KEY)
        with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as folder:
            file = Path(folder, 'a.xml')  # OpenVINO writes to no other ending
            openvino.save_model(model, str(file), compress_to_fp16=False)
            for path, suffix in zip(paths, ('.xml', '.bin'), strict=True):
                shutil.copyfile(file.with_suffix(suffix), path)
    except RuntimeError as error:
        raise RunError(
            f'OpenVINO does not take the graph: {one_line(error)}',
            code='unsupported-model',
        ) from error


def compile_openvino(paths: Sequence[Path], threads: int) -> Any:
    """Return OpenVINO's compiled model for the CPU."""
    core = _import_openvino().Core()
    settings = {
        'INFERENCE_PRECISION_HINT': 'f32',  # some CPUs would take bf16
        'INFERENCE_NUM_THREADS': threads,
    }
    return core.compile_model(core.read_model(*map(str, paths)), 'CPU', settings)


def one_line(error: Exception) -> str:
    """Return a runtime's message in one line; OpenVINO writes several."""
    return clipped(' '.join(str(error).split()) or type(error).__name__, 300)


def _import_openvino() -> Any:
    with _without_telemetry():
        return importlib.import_module('openvino')


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package openvino_telemetry while openvino is imported.

    With it, the import sends an event to Google Analytics, unless the user has once run
    ``opt_in_out --opt_out``.
    """
    modules: dict[str, Any] = sys.modules
    present = modules.setdefault('openvino_telemetry', None)  # as if not installed
    try:
        yield
    finally:
        if present is None:
            del modules['openvino_telemetry']


def properties(trained: Any, part: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the metadata of a file, as described in docs/export.md.

    ``trained`` is an :class:`~eca_mmdet.inference.detector.ECADetector`. UserError is
    raised where these entries cannot describe how the images are prepared.
    """
    model, cfg = trained.model, trained.cfg
    prepared = _preprocessing(model.data_preprocessor)
    resize: tuple[list[int] | None, bool | None] = None, None
    try:
        resize = _resize(trained)
    except UserError:
        if part != 'backbone':
            raise
    metadata = {
        'format': FORMAT,
        'eca_mmdet': __version__,
        'part': part,
        'detector': type(model).__name__,
        'classes': list(trained.classes),
        **prepared,
        'scale': resize[0],
        'keep_ratio': resize[1],
        'size': None if size is None else list(size),
        **(dict.fromkeys(_THRESHOLDS) if part == 'backbone' else _thresholds(model)),
        'config': Path(cfg.filename).name if cfg.filename else None,
        'checkpoint': Path(trained.path).name,
        'checkpoint_sha256': trained.sha256,
    }
    if part == 'all' and (wrong := fault(metadata)):
        raise UserError(
            f'the metadata of {cfg.filename or trained.path} cannot be used: {wrong}. '
            'Change it in the config; or export the parts: --part backbone, --part '
            'heads.',
            code='config-invalid',
        )
    return metadata


def _preprocessing(preprocessor: Any) -> dict[str, Any]:
    from mmdet.models import DetDataPreprocessor

    if type(preprocessor) is not DetDataPreprocessor:
        raise UserError(
            f'images are prepared by {type(preprocessor).__name__}, and the exported '
            'file can say how DetDataPreprocessor does it alone; set '
            'model.data_preprocessor.type in the config.',
            code='unsupported-model',
        )
    means, stds = [0.0] * 3, [1.0] * 3
    if preprocessor._enable_normalize:
        means = preprocessor.mean.flatten().tolist()
        stds = preprocessor.std.flatten().tolist()
    if len(means) != 3:
        raise UserError(
            f'images of three colours are expected; got mean={means}.',
            code='unsupported-model',
        )
    return {
        'mean': means,
        'std': stds,
        'to_rgb': bool(preprocessor._channel_conversion),
        'pad_divisor': preprocessor.pad_size_divisor,
        'pad_value': preprocessor.pad_value,
    }


def _resize(trained: Any) -> tuple[list[int], bool]:
    """Return width and height to resize to, and whether the aspect is kept."""
    where = f'the test pipeline of {trained.cfg.filename or trained.path}'
    steps = pipeline_steps(trained.cfg, trained.path)
    names = [str(step['type']).split('.')[-1] for step in steps]
    for name, step in zip(names, steps, strict=True):
        if name not in _KEPT:
            raise UserError(
                f'{where} has {name}, which no user of an exported file would do; '
                f'{", ".join(_KEPT)} are covered. The backbone can be exported: --part '
                'backbone.',
                code='unsupported-model',
            )
        for key, usual in _LOADING.items() if name == 'LoadImageFromFile' else ():
            if (value := step.get(key, usual)) != usual:
                raise UserError(
                    f'{where} has LoadImageFromFile with {key}={value!r}, and a user '
                    f'of an exported file reads images with {key}={usual!r}: it would '
                    'find other objects. Train and test with that; or export the '
                    'backbone: --part backbone.',
                    code='unsupported-model',
                )
    resizing = [dict(s) for n, s in zip(names, steps, strict=True) if n == 'Resize']
    step = resizing[0] if len(resizing) == 1 else {}
    scale: Any = step.get('scale')
    method = step.get('backend', 'cv2'), step.get('interpolation', 'bilinear')
    if not _is_scale(scale) or method != ('cv2', 'bilinear'):
        raise UserError(
            f'{where} has {resizing or "no Resize"}; one with scale=(width, height), '
            'two whole numbers, bilinear by cv2, is expected.',
            code='config-invalid',
        )
    return [int(side) for side in scale], bool(step.get('keep_ratio', False))


def _is_scale(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(isinstance(s, (int, float)) and s % 1 == 0 for s in value)


def _thresholds(model: Any) -> dict[str, Any]:
    head = getattr(model, 'roi_head', None) or model.bbox_head
    test, masks = head.test_cfg, getattr(head, 'with_mask', False)
    return {
        'mask_threshold': test['mask_thr_binary'] if masks else None,
        'score_threshold': test.get('score_thr', 0),
        'nms_iou': test['nms']['iou_threshold'],
        'max_per_image': test['max_per_img'],
    }
