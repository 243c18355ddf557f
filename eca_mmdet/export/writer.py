"""From a detector to the file: the trace, the names, the shapes and the metadata."""

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
from typing import Any

import torch
from torch import Tensor, nn

from eca_mmdet.compat import silent_onnx_log
from eca_mmdet.export.heads import PartHeads, Whole
from eca_mmdet.export.metadata import KEY
from eca_mmdet.utils.errors import MissingPackageError, RunError
from eca_mmdet.utils.text import clipped


def convert(graph: Path, paths: Sequence[Path], metadata: dict[str, Any]) -> None:
    """Write an ONNX file once more, for OpenVINO.

    Args:
        graph: the ONNX file.
        paths: of the XML and of its weights.
        metadata: written as JSON.

    Raises:
        RunError: OpenVINO does not take it.
    """
    openvino = load()
    try:
        model = openvino.Core().read_model(str(graph))
        if model.has_rt_info('framework'):  # ONNX's metadata, once more
            del model.rt_info['framework']
        model.set_rt_info(json.dumps(metadata, ensure_ascii=True), KEY)
        with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as name:
            file = Path(name, 'a.xml')  # OpenVINO writes to no other ending
            openvino.save_model(model, str(file), compress_to_fp16=False)
            for path, suffix in zip(paths, ('.xml', '.bin'), strict=True):
                shutil.copyfile(file.with_suffix(suffix), path)
    except RuntimeError as error:
        raise RunError(
            f'OpenVINO does not take the graph: {one_line(error)}',
            code='unsupported-model',
        ) from error


def compiled(paths: Sequence[Path], threads: int) -> Any:
    """Return what runs the files on the CPU; raise what OpenVINO does."""
    core = load().Core()
    settings = {
        'INFERENCE_PRECISION_HINT': 'f32',  # some CPUs would take bf16
        'INFERENCE_NUM_THREADS': threads,
    }
    return core.compile_model(core.read_model(*map(str, paths)), 'CPU', settings)


def one_line(error: Exception) -> str:
    """Return what a runtime says of an error; OpenVINO does so in several lines."""
    return clipped(' '.join(str(error).split()) or type(error).__name__, 300)


def load() -> Any:
    """Import openvino, and let it send nothing."""
    with without_telemetry():
        return importlib.import_module('openvino')


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Let openvino be imported as where the package openvino_telemetry is not.

    With it, the import alone sends an event to Google Analytics, unless the user has
    once run ``opt_in_out --opt_out``.
    """
    modules: dict[str, Any] = sys.modules
    present = modules.setdefault('openvino_telemetry', None)  # as if not installed
    try:
        yield
    finally:
        if present is None:
            del modules['openvino_telemetry']


OPSET = 17
"""Of ONNX, 2022: RoiAlign's half pixels came with 16."""

_ANY_SIZE = (160, 192)
"""Of the image that a graph for any size is traced with; nothing of it stays."""

OUTPUTS = ('boxes', 'scores', 'labels', 'masks')


@dataclass(frozen=True)
class ExportPart:
    """What is exported.

    Attributes:
        name: 'all', 'backbone' or 'heads'.
        network: takes the inputs in their order.
        inputs: names.
        outputs: names.
    """

    name: str
    network: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_PACKAGES = {
    'onnx': ('export', 'onnx', 'onnxruntime'),
    'openvino': ('openvino', 'onnx', 'openvino'),
}
"""By format: the extra of eca-mmdet, and what it brings."""


def require_packages(form: str) -> None:
    """Import what only the export needs, before long work.

    Args:
        form: 'onnx' or 'openvino'.

    Raises:
        MissingPackageError: one is not installed.
    """
    extra, *names = _PACKAGES[form]
    for name in names:
        try:
            with without_telemetry():
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f'the export needs {" and ".join(names)}, and {error.name} is not '
                f"installed: pip install 'eca-mmdet[{extra}]', or pip install "
                f'{" ".join(names)}'
            ) from error


def make_part(model: Any, name: str) -> ExportPart:
    """Return a part of mmdet's detector as a network with named inputs and outputs."""
    with torch.no_grad():
        image = torch.zeros(1, 3, *_ANY_SIZE)
        count = len(model.backbone(image))
    features = tuple(f'feature_{index}' for index in range(count))
    if name == 'backbone':
        return ExportPart(name, model.backbone, ('images',), features)
    masks = bool(getattr(getattr(model, 'roi_head', None), 'with_mask', False))
    outputs = OUTPUTS[: 3 + masks]
    if name == 'heads':
        return ExportPart(name, PartHeads(model), (*features, 'sizes'), outputs)
    return ExportPart(name, Whole(model), ('images', 'sizes'), outputs)


def write_graph(
    path: Path,
    part: ExportPart,
    model: Any,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> None:
    """Trace the network and write it, with names, shapes and metadata.

    Args:
        path: of the file.
        part: what to write.
        model: the detector that it is of.
        size: height and width in px of every input, or None for any.
        metadata: written as JSON.

    Raises:
        RunError: a layer has no counterpart in ONNX.
    """
    import onnx

    part.network.train(False)
    example = _example(part, model, size or _ANY_SIZE)
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
                dynamic_axes=_axes(part, size),
            )
    except (
        RuntimeError,
        ValueError,
        NotImplementedError,
        torch.onnx.errors.OnnxExporterError,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f'PyTorch cannot write {part.name} of {type(model).__name__} as ONNX: '
            f'{reason}',
            code='unsupported-model',
        ) from error
    graph = onnx.load(str(path))
    _set_shapes(graph, model, metadata.get('max_per_image'))
    onnx.helper.set_model_props(graph, {KEY: json.dumps(metadata, ensure_ascii=True)})
    graph.producer_name, graph.producer_version = 'eca-mmdet', metadata['eca_mmdet']
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _example(part: ExportPart, model: Any, size: tuple[int, int]) -> tuple[Tensor, ...]:
    # Two images of unlike sides: nothing may take a batch for one, or H for W.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator)
    sizes = torch.tensor([size, (size[0] - 16, size[1] - 24)]).float()
    if part.name == 'backbone':
        return (images,)
    if part.name == 'heads':
        with torch.no_grad():
            return (*model.backbone(images), sizes)
    return images, sizes


def _axes(part: ExportPart, size: tuple[int, int] | None) -> dict[str, dict[int, str]]:
    axes = {}
    for name in (*part.inputs, *part.outputs):
        axes[name] = {0: 'batch'}
        if size is None and name == 'images':
            axes[name] |= {2: 'height', 3: 'width'}
        elif size is None and name.startswith('feature_'):
            axes[name] |= {2: f'height_{name[8:]}', 3: f'width_{name[8:]}'}
    return axes


def _set_shapes(graph: Any, model: Any, count: int | None) -> None:
    """Say of the outputs how many objects there are; the trace does not know."""
    for one in graph.graph.output:
        if one.name not in OUTPUTS:
            continue
        sides = [count, 4] if one.name == 'boxes' else [count]
        if one.name == 'masks':
            sides += _mask_size(model.roi_head)
        places = one.type.tensor_type.shape.dim
        for place, side in zip(places[1:], sides, strict=True):
            place.dim_value = side


def _mask_size(roi_head: Any) -> list[int]:
    extractor = roi_head.mask_roi_extractor
    size = extractor.roi_layers[0].output_size
    with torch.no_grad():
        masks = roi_head.mask_head(torch.zeros(1, extractor.out_channels, *size))
    return list(masks.shape[2:])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what the exporter says of its own age and of values it keeps.

    Of the latter, those that matter are found by the check at other sizes.
    """
    with warnings.catch_warnings(), silent_onnx_log():
        warnings.simplefilter('ignore')
        yield
