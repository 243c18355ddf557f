"""Open an exported detector with onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eca_mmdet.export.onnx.metadata import (
    ADVICE,
    KEY,
    image_rule,
    mask_threshold,
    parse_metadata,
)
from eca_mmdet.export.preprocess import ImageRule
from eca_mmdet.utils.errors import MissingPackageError, UserError
from eca_mmdet.utils.io import require_regular
from eca_mmdet.utils.text import clipped

Form = dict[str, tuple[str, int]]

_INPUTS: Form = {'images': ('float', 4), 'sizes': ('float', 2)}
_OUTPUTS: Form = {'boxes': ('float', 3), 'scores': ('float', 2), 'labels': ('int64', 2)}
_MASKS: Form = {'masks': ('float', 4)}
"""Kind of value and number of dimensions by name."""

_MOST_BYTES = 2**31
"""Of a file: what holds an ONNX graph is smaller."""

_ELSEWHERE = re.compile(rb'(?:\n|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location')
"""The key of a tensor whose values are in another file, as protobuf writes it."""

_ONLY_CPU = 'CPUExecutionProvider'


@dataclass(frozen=True)
class OnnxFile:
    """An exported detector.

    Attributes:
        session: onnxruntime's.
        metadata: what the file says, as it says it.
        rule: how it wants its images.
        classes: names by label.
        mask_threshold: None for a detector of boxes alone.
    """

    session: Any
    metadata: dict[str, Any]
    rule: ImageRule
    classes: tuple[str, ...]
    mask_threshold: float | None


def open_onnx(
    path: str, providers: Sequence[Any] | None = None, threads: int | None = None
) -> OnnxFile:
    """Open a file that ``eca-mmdet export onnx`` wrote.

    Args:
        path: of the file.
        providers: onnxruntime's names of what runs it; None for the CPU.
        threads: to work with; None for as many as there are cores.

    Raises:
        UserError: it is another file, of a later release, of a part of a detector, or
            says what cannot be; or there is no such provider.
        MissingPackageError: onnxruntime is not installed.
    """
    session = _session(path, providers, threads)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise UserError(
            f'{path} is an ONNX file, but not one of eca-mmdet: it does not say its '
            f'classes and how it wants its images. {ADVICE}'
        )
    metadata = parse_metadata(text, path)
    masks = _require_form(session, path)
    return OnnxFile(
        session=session,
        metadata=metadata,
        rule=image_rule(metadata),
        classes=tuple(metadata['classes']),
        mask_threshold=mask_threshold(metadata, path) if masks else None,
    )


def _session(path: str, providers: Sequence[Any] | None, threads: int | None) -> Any:
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f'threads must be a whole number from 1; got {threads!r}.')
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            'running an ONNX file needs the package onnxruntime: pip install '
            'onnxruntime'
        ) from error
    names = _providers(providers, onnxruntime.get_available_providers())
    return _start(onnxruntime, path, _read(path), names, threads or 0)


def _read(path: str) -> bytes:
    """Read the file here: of a path, onnxruntime opens other files that it names."""
    require_regular(Path(path), 'ONNX file', _MOST_BYTES)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror or error}') from error
    if not content:
        raise UserError(f'{path} is empty. {ADVICE}')
    if _ELSEWHERE.search(content):
        raise UserError(
            f'{path} has weights in another file, which is not opened: a file from '
            f'anywhere could name any of yours. {ADVICE}'
        )
    return content


def _start(
    onnxruntime: Any, path: str, content: bytes, names: list[Any], threads: int
) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=names, enable_fallback=False
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f'onnxruntime cannot start {clipped(repr(names))}: {first_line(error)} '
            'Without providers the CPU is used.'
        ) from error
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise UserError(
            f'{path} is not an ONNX file that onnxruntime {onnxruntime.__version__} '
            f'reads: {first_line(error)} Is it whole, and what eca-mmdet export onnx '
            'wrote?'
        ) from error
    wanted = names[0] if isinstance(names[0], str) else names[0][0]
    if wanted not in session.get_providers():  # it took the CPU instead
        raise UserError(
            f'onnxruntime has {wanted} but cannot start it here: its driver or its '
            'libraries are missing. Without providers the CPU is used.'
        )
    session.disable_fallback()  # to the CPU in the midst of images
    return session


def _providers(wanted: Sequence[Any] | None, there: list[str]) -> list[Any]:
    """Return what to run on; an element is a name, or a name and its options."""
    names = [wanted] if isinstance(wanted, str) else list(wanted or [_ONLY_CPU])
    for one in names:
        name = one[0] if isinstance(one, (tuple, list)) and one else one
        if name not in there:
            raise UserError(
                f'the onnxruntime here has no provider {name!r}; it has '
                f'{", ".join(there)}. For an NVIDIA GPU: pip install onnxruntime-gpu'
            )
    return names


def first_line(error: Exception) -> str:
    """Return what onnxruntime says, in one line without its code."""
    text = next(iter(str(error).splitlines()), '') or type(error).__name__
    text = clipped(re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', text), 300)
    return text if text.endswith('.') else f'{text}.'


def _require_form(session: Any, path: str) -> bool:
    """Hold the inputs and outputs against what a detector's are.

    Returns:
        True if it gives masks.
    """
    given, found = map(_form, (session.get_inputs(), session.get_outputs()))
    masks = 'masks' in found
    expected = {**_OUTPUTS, **_MASKS} if masks else _OUTPUTS
    if given != _INPUTS or found != expected:
        raise UserError(
            f'{path} is no detector as its metadata say: {_told(given)} to '
            f'{_told(found)}; {_told(_INPUTS)} to {_told(expected)} is expected. '
            f'{ADVICE}'
        )
    return masks


def _form(arrays: Sequence[Any]) -> Form:
    """Return the kind and axes of each by name; onnxruntime says tensor(float)."""
    kinds = {one.name: one.type.removeprefix('tensor(')[:-1] for one in arrays}
    return {one.name: (kinds[one.name], len(one.shape or ())) for one in arrays}


def _told(form: Form) -> str:
    """Return 'images (float, 4 axes), sizes (float, 2 axes)'."""
    parts = (f'{name} ({kind}, {axes} axes)' for name, (kind, axes) in form.items())
    return clipped(', '.join(parts), 200)
