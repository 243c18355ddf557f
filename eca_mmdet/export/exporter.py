"""Export of a detector to ONNX or OpenVINO files, checked before they are kept."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eca_mmdet.export.heads import require_covered
from eca_mmdet.export.parity import (
    Batch,
    Report,
    compare,
    find_samples,
    make_batches,
    require_same_input,
)
from eca_mmdet.export.writer import (
    ExportPart,
    convert_to_openvino,
    make_part,
    properties,
    require_packages,
    write_graph,
)
from eca_mmdet.inference.detector import ECADetector, load_model
from eca_mmdet.utils.errors import RunError, UserError
from eca_mmdet.utils.io import require_free, whole_files

logger = logging.getLogger(__name__)

PartName = Literal['all', 'backbone', 'heads']

_MOST_BYTES = 2**31 - 2**24
"""Largest size of weights: an ONNX file is one message of less than 2 GB."""

_SUFFIXES = {'onnx': ('.onnx',), 'openvino': ('.xml', '.bin')}
"""File name extensions of each format; ``out`` has the first."""


@dataclass(frozen=True)
class ExportReport:
    """Files that were written, and how they compare with the detector.

    Attributes:
        paths: the files.
        metadata: stored in them.
        ports: inputs and outputs with types and shapes, a line each.
        checks: the comparison with mmdet; empty without one.
    """

    paths: tuple[Path, ...]
    metadata: dict[str, Any]
    ports: tuple[str, ...]
    checks: tuple[Report, ...]


def export_onnx(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    config: str | None = None,
    part: PartName = 'all',
    check: bool = True,
    images: str | None = None,
    force: bool = False,
    form: Literal['onnx', 'openvino'] = 'onnx',
) -> ExportReport:
    """Write a detector as an ONNX file that finds objects by itself.

    Run it with :class:`~eca_mmdet.export.runtime.OnnxDetector`.

    Args:
        checkpoint: saved by mmengine in training, or the folder of the training.
        out: file to write, ending in '.onnx'.
        size: height and width of every input in pixels, padding included; None for
            any size.
        config: name or path; None for the config embedded in the checkpoint.
        part: the whole detector, its backbone, or neck and heads.
        check: compare the file with mmdet before it is put in place.
        images: folder with images for the check; None for the config's test images.
        force: replace ``out`` if it exists.
        form: 'openvino' converts the graph once more, to OUT.xml and OUT.bin.

    Raises:
        UserError: the detector cannot be exported, or an argument is wrong.
        RunError: the file differs from the detector; a copy is kept beside ``out``.

    Example:
        >>> import eca_mmdet
        >>> report = eca_mmdet.export_onnx(  # doctest: +SKIP
        ...     'epoch_12.pth', 'model.onnx'
        ... )
        >>> report.checks[-1].passes  # doctest: +SKIP
        True
    """
    out = Path(out)
    paths = _output_paths(out, _SUFFIXES[form], force)
    if images and not check:
        raise UserError(
            '--images goes with the check; leave out --no-check.',
            code='option-conflict',
        )
    require_packages(form)
    trained, metadata = _load(str(checkpoint), config, part, size)
    samples, source = find_samples(images, trained.cfg) if check else ([], '')
    batches = make_batches(samples, trained.model, metadata) if check else []
    exported = make_part(trained.model, part)
    _require_small(exported.network)
    checks: list[Report] = []
    try:
        with whole_files(*paths) as partials:
            ports = _write(partials, exported, metadata)
            _log([_contents(partials, exported, metadata), *ports])
            if check:
                _log(['', f'Checked on images {source}.'])
                try:
                    checks += _check(partials, exported, metadata, batches)
                    if part == 'all' and len(partials) == 1:
                        require_same_input(partials[0], trained)
                except UserError as error:
                    raise RunError(
                        f'{error} {_keep(partials, paths)}', code='check-failed'
                    ) from error
    except OSError as error:
        raise UserError(
            f'{out} cannot be written: {error.strerror or error}. Check the folder and '
            'the space on its disk.',
            code='file-not-written',
        ) from error
    unchecked = '' if check else ', without comparing it with the detector'
    logger.info('Written: %s%s.', ', '.join(map(str, paths)), unchecked)
    return ExportReport(tuple(paths), metadata, tuple(ports), tuple(checks))


def _log(lines: Iterable[str]) -> None:
    for line in lines:
        logger.info('%s', line)


def _output_paths(out: Path, suffixes: Sequence[str], force: bool) -> list[Path]:
    """Return the files to write; reject bad names before long work."""
    if out.suffix != suffixes[0]:
        raise UserError(
            f'{out}: write to a name in {suffixes[0]}.', code='unsupported-format'
        )
    paths = [out.with_suffix(suffix) for suffix in suffixes]
    for path in paths:
        if path.is_dir() or not path.parent.is_dir():
            what = 'is a folder' if path.is_dir() else 'is in no folder that exists'
            raise UserError(
                f'{path} {what}; name a file to write.', code='file-not-written'
            )
    if not force:
        require_free(*paths, option='OUT, or replace it: --force')
    if not os.access(out.parent, os.W_OK):
        raise UserError(
            f'directory is not writable: {out.parent}', code='file-not-written'
        )
    return paths


def _load(
    checkpoint: str, config: str | None, part: str, size: tuple[int, int] | None
) -> tuple[ECADetector, dict[str, Any]]:
    """Load the detector and describe it; reject what cannot be exported."""
    trained = load_model(checkpoint, config, 'cpu')
    if part != 'backbone':
        require_covered(trained.model)
    metadata = properties(trained, part, size)
    divisor = metadata['pad_divisor']
    if size is not None and (size[0] % divisor or size[1] % divisor):
        near = ' '.join(str(-(-side // divisor) * divisor) for side in size)
        raise UserError(
            f'the config pads images to multiples of {divisor} px; --size '
            f'{size[0]} {size[1]} is none. The next is --size {near}.',
            code='option-invalid',
        )
    return trained, metadata


def _require_small(network: Any) -> None:
    """Reject weights too large for one file; ONNX would write several."""
    total = sum(tensor.nbytes for tensor in network.state_dict().values())
    if total > _MOST_BYTES:
        raise UserError(
            f'the weights take {total / 2**30:.1f} GB, and an ONNX file is less than '
            '2 GB. Export the parts: --part backbone, --part heads.',
            code='unsupported-model',
        )


def _write(
    paths: Sequence[Path], part: ExportPart, metadata: dict[str, Any]
) -> list[str]:
    """Write the ONNX file, or OpenVINO's two from it; return the ports, a line each."""
    with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as folder:
        graph = paths[0] if len(paths) == 1 else Path(folder, 'a.onnx')
        write_graph(graph, part, metadata)
        if len(paths) > 1:
            convert_to_openvino(graph, paths, metadata)
        return _ports(graph)


def _contents(paths: Sequence[Path], part: ExportPart, metadata: dict[str, Any]) -> str:
    prefix = {'all': '', 'backbone': 'the backbone of ', 'heads': 'neck and heads of '}
    total = sum(path.stat().st_size for path in paths)
    return f'{prefix[part.name]}{metadata["detector"]}, {total / 2**20:.1f} MB'


def _ports(path: Path) -> list[str]:
    import onnx

    graph = onnx.load(str(path)).graph
    lines = []
    for verb, ports in (('takes', graph.input), ('gives', graph.output)):
        for port in ports:
            kind = onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type)
            sides = port.type.tensor_type.shape.dim
            shape = ' x '.join(side.dim_param or str(side.dim_value) for side in sides)
            lines.append(f'  {verb} {port.name:10} {kind.lower():6} {shape}')
    return lines


def _check(
    paths: Sequence[Path],
    part: ExportPart,
    metadata: dict[str, Any],
    batches: list[Batch],
) -> list[Report]:
    """Compare a file with mmdet, log the differences, and reject large ones."""
    reports = [compare(paths, part, metadata, batches)]
    if reports[0].passes and reports[0].is_empty:
        reports.append(_compare_without_threshold(paths, part, metadata, batches))
    for report in reports:
        if report is not reports[0]:
            logger.info(
                'No object of both has a score above %g; compared once more without '
                'that threshold, in a copy of the graph.',
                metadata['score_threshold'],
            )
        _log(report.table().split('\n'))
        if not report.passes:
            problem = (
                'the file does not do what the detector does: the table says how far '
                'they are apart. Do not use it.'
            )
            if report.may_pass:
                problem = (
                    "the detector's scores are nearly all equal where the two differ, "
                    'and the others agree: the check cannot tell right from wrong '
                    'order. Train longer, or export without the check: --no-check.'
                )
            raise RunError(problem, code='check-failed')
    if reports[-1].is_empty:
        raise RunError(
            'no object was found in these images, and nothing was compared; name '
            'images with objects: --images DIR.',
            code='check-failed',
        )
    return reports


def _compare_without_threshold(
    paths: Sequence[Path],
    part: ExportPart,
    metadata: dict[str, Any],
    batches: list[Batch],
) -> Report:
    """Compare a copy of the graph whose objects may have any score."""
    head = getattr(part.model, 'roi_head', None) or part.model.bbox_head
    test: Any = head.test_cfg
    before, test['score_thr'] = test['score_thr'], 0.0
    changed = metadata | {'score_threshold': 0.0}
    try:
        with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as folder:
            copies = [Path(folder, path.name) for path in paths]
            _write(copies, part, changed)
            return compare(copies, part, changed, batches)
    finally:
        test['score_thr'] = before


def _keep(partials: Sequence[Path], paths: Sequence[Path]) -> str:
    """Copy files that failed beside their place, and return a sentence about it."""
    names = itertools.chain(['failed'], (f'failed-{n}' for n in itertools.count(2)))
    choices = ([p.with_name(f'{p.stem}.{n}{p.suffix}') for p in paths] for n in names)
    kept = next(files for files in choices if not any(map(os.path.lexists, files)))
    with whole_files(*kept) as copies:
        for partial, copy in zip(partials, copies, strict=True):
            shutil.copyfile(partial, copy)
    old = f'; {paths[0]} is as it was' if os.path.lexists(paths[0]) else ''
    return f'What was written is kept for a look: {", ".join(map(str, kept))}{old}.'
