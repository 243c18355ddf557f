"""OpenVINO's two files of a detector: the graph in XML, and its weights."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eca_mmdet.export.metadata import KEY
from eca_mmdet.utils.errors import RunError
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
