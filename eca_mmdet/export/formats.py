"""The formats of an exported detector: what writes the files of each, and runs them."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from eca_mmdet.errors import RunError, clipped
from eca_mmdet.export import graph_file
from eca_mmdet.export.graph_file import Part
from eca_mmdet.export.matching import Array
from eca_mmdet.export.properties import KEY

Runner = Callable[[dict[str, Array]], Sequence[Array]]
"""From inputs by name to the outputs, in the order of the part's."""

Size = tuple[int, int]

Port = tuple[str, str, str]
"""Name, kind and shape of an input or output."""


class Onnx:
    """One ONNX file, run by onnxruntime."""

    runtime = 'onnxruntime'

    def require_packages(self) -> None:
        """Import them; raise ``MissingPackageError`` without one."""
        graph_file.require_packages('export', 'onnx', 'onnxruntime')

    def write(
        self,
        paths: Sequence[Path],
        part: Part,
        model: Any,
        size: Size | None,
        metadata: dict[str, Any],
    ) -> None:
        """Write the file; see :func:`~eca_mmdet.export.graph_file.write_graph`."""
        graph_file.write_graph(paths[0], part, model, size, metadata)

    def ports(self, paths: Sequence[Path]) -> tuple[list[Port], list[Port]]:
        """Return the inputs and the outputs."""
        import onnx

        def told(value: Any) -> Port:
            kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            sides = value.type.tensor_type.shape.dim
            shape = ' x '.join(side.dim_param or str(side.dim_value) for side in sides)
            return value.name, kind.lower(), shape

        graph = onnx.load(str(paths[0])).graph
        return [*map(told, graph.input)], [*map(told, graph.output)]

    def start(self, paths: Sequence[Path], outputs: Sequence[str]) -> Runner:
        """Open the file, to be run on the CPU; raise what onnxruntime does."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; they are raised as well
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            str(paths[0]), options, providers=['CPUExecutionProvider']
        )
        return lambda inputs: list(session.run(list(outputs), inputs))


class OpenVino:
    """A graph in XML and its weights beside it, run by OpenVINO."""

    runtime = 'OpenVINO'

    def require_packages(self) -> None:
        """Import them; raise ``MissingPackageError`` without one."""
        with _without_telemetry():
            graph_file.require_packages('openvino', 'onnx', 'openvino')

    def write(
        self,
        paths: Sequence[Path],
        part: Part,
        model: Any,
        size: Size | None,
        metadata: dict[str, Any],
    ) -> None:
        """Write both files, by way of an ONNX file."""
        openvino = _openvino()
        with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as name:
            folder = Path(name)
            onnx = folder / 'a.onnx'
            graph_file.write_graph(onnx, part, model, size, metadata)
            try:
                graph = openvino.Core().read_model(str(onnx))
                if graph.has_rt_info('framework'):  # ONNX's metadata, once more
                    del graph.rt_info['framework']
                graph.set_rt_info(json.dumps(metadata, ensure_ascii=True), KEY)
                openvino.save_model(graph, folder / 'a.xml', compress_to_fp16=False)
            except RuntimeError as error:
                raise RunError(
                    f'OpenVINO does not take {part.name} of {type(model).__name__}: '
                    f'{one_line(error)}'
                ) from error
            for path, suffix in zip(paths, ('.xml', '.bin'), strict=True):
                shutil.copyfile(folder / f'a{suffix}', path)

    def ports(self, paths: Sequence[Path]) -> tuple[list[Port], list[Port]]:
        """Return the inputs and the outputs."""

        def told(port: Any) -> Port:
            sides = port.get_partial_shape()
            kind = port.get_element_type().to_string()
            return port.get_any_name(), kind, ' x '.join(map(str, sides))

        graph = _openvino().Core().read_model(*map(str, paths))
        return [*map(told, graph.inputs)], [*map(told, graph.outputs)]

    def start(self, paths: Sequence[Path], outputs: Sequence[str]) -> Runner:
        """Open the files, to be run on the CPU; raise what OpenVINO does."""
        core = _openvino().Core()
        settings = {
            'INFERENCE_PRECISION_HINT': 'f32',  # some CPUs would take bf16
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        }
        compiled = core.compile_model(
            core.read_model(*map(str, paths)), 'CPU', settings
        )

        def run(inputs: dict[str, Array]) -> list[Array]:
            found = compiled(inputs)
            return [found[name] for name in outputs]

        return run


Format = Onnx | OpenVino

FORMATS: dict[str, Format] = {'onnx': Onnx(), 'openvino': OpenVino()}


def one_line(error: Exception) -> str:
    """Return what a runtime says of an error, in one line."""
    return clipped(' '.join(str(error).split()) or type(error).__name__, 300)


def _openvino() -> Any:
    with _without_telemetry():
        return importlib.import_module('openvino')


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
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
