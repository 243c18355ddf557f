"""``eca-mmdet export``: a detector for programs without PyTorch."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eca_mmdet.utils.errors import RunError, UserError
from eca_mmdet.utils.io import whole_files
from eca_mmdet.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eca_mmdet.export.onnx.writer import Part
    from eca_mmdet.export.verify.parity import Report
    from eca_mmdet.export.verify.samples import Batch

_MOST_BYTES = 2**31 - 2**24
"""Of weights: an ONNX file is one message of less than 2 GB, with room for the rest."""

_SUFFIXES = {'onnx': ('.onnx',), 'openvino': ('.xml', '.bin')}
"""Of the files of each format; OUT has the first."""

Size = tuple[int, int]


def run(args: argparse.Namespace) -> int:
    """Write the files and check them; nothing is put in its place before."""
    size = _size(args.size)
    out = Path(args.out)
    places = _places(out, _SUFFIXES[args.format], args.force)
    from eca_mmdet.export.onnx.writer import make_part, require_packages

    require_packages(args.format)
    trained, metadata = _prepare(args, size)
    model = trained.model
    batches, source = _batches(args, trained, metadata)
    part = make_part(model, args.part)
    _require_small(part.network)
    try:
        with whole_files(*places) as partials:
            ports = _write(partials, part, model, size, metadata)
            _tell(_told(partials, part, metadata) + ports)
            if args.check:
                _tell(f'\nChecked on images {source}.')
                try:
                    _check(partials, part, model, metadata, batches)
                    if args.part == 'all' and len(partials) == 1:
                        _check_metadata(partials[0], trained)
                except RunError as error:
                    raise RunError(f'{error} {_kept(partials, places)}') from error
    except OSError as error:
        raise UserError(
            f'{out} cannot be written: {error.strerror or error}. Check the folder and '
            'the space on its disk.'
        ) from error
    unchecked = '' if args.check else ', and not checked: nobody knows if it is right'
    _tell(f'Written: {_listed(places)}{unchecked}.')
    return 0


def _tell(text: str) -> None:
    print('\n'.join(map(printable, text.split('\n'))), flush=True)


def _size(words: list[str]) -> Size | None:
    """Read --size; None is any size."""
    if words == ['dynamic']:
        return None
    if len(words) == 2 and all(one.isdecimal() and int(one) > 0 for one in words):
        return int(words[0]), int(words[1])
    raise UserError(
        'a height and a width in px, as in --size 800 1344, or --size dynamic is '
        f'expected; got --size {" ".join(words)}.'
    )


def _places(out: Path, suffixes: Sequence[str], force: bool) -> list[Path]:
    """Return the files to write; refuse names they cannot have, before long work."""
    if out.suffix != suffixes[0]:
        raise UserError(f'{out}: write to a name in {suffixes[0]}.')
    places = [out.with_suffix(suffix) for suffix in suffixes]
    for place in places:
        if place.is_dir() or not place.parent.is_dir():
            what = 'is a folder' if place.is_dir() else 'is in no folder that exists'
            raise UserError(f'{place} {what}; name a file to write.')
        if os.path.lexists(place) and not force:
            raise UserError(
                f'{place} exists, and nothing is overwritten. Name another file; or '
                '--force replaces it, once the new one is written and checked.'
            )
    if not os.access(out.parent, os.W_OK):
        raise UserError(
            f'{out.parent} takes no file of yours: it cannot be written to.'
        )
    return places


def _listed(paths: Sequence[Path]) -> str:
    return ', '.join(map(str, paths))


def _prepare(args: argparse.Namespace, size: Size | None) -> tuple[Any, dict[str, Any]]:
    """Load the detector; refuse what cannot be exported."""
    from eca_mmdet.export.onnx.properties import properties
    from eca_mmdet.export.onnx.supported import require_covered
    from eca_mmdet.inference.detector import load_detector

    trained = load_detector(args.checkpoint, args.config, 'cpu')
    if args.part != 'backbone':
        require_covered(trained.model)
    metadata = properties(trained, args.part, size)
    divisor = metadata['pad_divisor']
    if size is not None and (size[0] % divisor or size[1] % divisor):
        near = ' '.join(str(-(-side // divisor) * divisor) for side in size)
        raise UserError(
            f'the config pads images to multiples of {divisor} px; --size '
            f'{size[0]} {size[1]} is none. The next is --size {near}.'
        )
    return trained, metadata


def _batches(
    args: argparse.Namespace, trained: Any, metadata: dict[str, Any]
) -> tuple[list[Batch], str]:
    """Return the inputs of the check, and where the images are from."""
    from eca_mmdet.export.verify.samples import find_samples, make_batches

    if not args.check:
        if args.images:
            raise UserError('--images goes with the check; leave out --no-check.')
        return [], ''
    images, source = find_samples(args.images, trained.cfg)
    return make_batches(images, trained.model, metadata), source


def _require_small(network: Any) -> None:
    """Refuse weights that are more than one file takes; ONNX would write several."""
    tensors = network.state_dict().values()
    total = sum(one.numel() * one.element_size() for one in tensors)
    if total > _MOST_BYTES:
        raise UserError(
            f'the weights take {total / 2**30:.1f} GB, and an ONNX file is less than '
            '2 GB. Export the parts: --part backbone, --part heads.'
        )


def _write(
    paths: Sequence[Path],
    part: Part,
    model: Any,
    size: Size | None,
    metadata: dict[str, Any],
) -> str:
    """Write the ONNX file, or OpenVINO's two by way of it.

    Returns:
        Inputs and outputs, a line each.
    """
    from eca_mmdet.export.onnx.writer import write_graph
    from eca_mmdet.export.openvino import convert

    with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as folder:
        graph = paths[0] if len(paths) == 1 else Path(folder, 'a.onnx')
        write_graph(graph, part, model, size, metadata)
        if len(paths) > 1:
            convert(graph, paths, metadata)
        return _ports(graph)


def _told(paths: Sequence[Path], part: Part, metadata: dict[str, Any]) -> str:
    """Return what is in the files."""
    what = {
        'all': metadata['detector'],
        'backbone': f'the backbone of {metadata["detector"]}',
        'heads': f'neck and heads of {metadata["detector"]}',
    }[part.name]
    total = sum(path.stat().st_size for path in paths)
    return f'{what}, {total / 2**20:.1f} MB'


def _ports(path: Path) -> str:
    import onnx

    graph = onnx.load(str(path)).graph
    text = ''
    for title, values in (('takes', graph.input), ('gives', graph.output)):
        for one in values:
            kind = onnx.TensorProto.DataType.Name(one.type.tensor_type.elem_type)
            sides = one.type.tensor_type.shape.dim
            shape = ' x '.join(side.dim_param or str(side.dim_value) for side in sides)
            text += f'\n  {title} {one.name:10} {kind.lower():6} {shape}'
    return text


def _check(
    paths: Sequence[Path],
    part: Part,
    model: Any,
    metadata: dict[str, Any],
    batches: list[Batch],
) -> None:
    """Compare the file to mmdet, and print how far they are apart.

    Raises:
        RunError: further than they may be.
    """
    from eca_mmdet.export.verify.parity import compare
    from eca_mmdet.export.verify.table import table

    report = compare(paths, part, model, metadata, batches)
    print(table(report), flush=True)
    if report.passes and report.bare:
        _tell_bare(report, metadata['score_threshold'])
        report = _compare_lower(paths, part, model, metadata, batches)
        print(table(report), flush=True)
    if not report.passes:
        raise RunError(
            'the file does not do what the detector does: the table says how far they '
            'are apart. Do not use it.'
        )
    if report.bare:
        raise RunError(
            f'in {report.bare} of {report.images} images nothing was found even so, '
            'and nothing was compared; name images with objects: --images DIR.'
        )


def _tell_bare(report: Report, threshold: float) -> None:
    where = 'any image'
    if report.bare < report.images:
        where = f'{report.bare} of {report.images} images'
    print(
        f'No object of both has a score above {threshold:g} in {where}; compared once '
        'more without that threshold, in a copy of the graph.',
        flush=True,
    )


def _check_metadata(path: Path, trained: Any) -> None:
    """Open the file as its user does.

    Raises:
        RunError: it is refused, or says something else than the detector does.
    """
    from eca_mmdet.export.verify.reopened import require_same_input

    try:
        require_same_input(path, trained)
    except UserError as error:
        raise RunError(f'{error} Do not use it.') from error


def _compare_lower(
    paths: Sequence[Path],
    part: Part,
    model: Any,
    metadata: dict[str, Any],
    batches: list[Batch],
) -> Report:
    """Compare a copy of the graph whose objects may have any score."""
    from eca_mmdet.export.verify.parity import compare

    roi_head = getattr(model, 'roi_head', None)
    test = (model.bbox_head if roi_head is None else roi_head).test_cfg
    before, test['score_thr'] = test['score_thr'], 0.0
    changed = metadata | {'score_threshold': 0.0}
    size = metadata['size'] and (metadata['size'][0], metadata['size'][1])
    try:
        with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as folder:
            copies = [Path(folder, path.name) for path in paths]
            _write(copies, part, model, size, changed)
            return compare(copies, part, model, changed, batches)
    finally:
        test['score_thr'] = before


def _kept(paths: Sequence[Path], places: Sequence[Path]) -> str:
    """Copy what failed beside its place, and say so."""
    out = places[0]
    names = ['failed', *(f'failed-{index}' for index in range(2, 1000))]
    choices = (
        [one.with_name(f'{one.stem}.{name}{one.suffix}') for one in places]
        for name in names
    )
    free = next(ones for ones in choices if not any(map(os.path.lexists, ones)))
    with whole_files(*free) as partials:
        for path, partial in zip(paths, partials, strict=True):
            shutil.copyfile(path, partial)
    old = f'; {out} is as it was' if os.path.lexists(out) else ''
    return f'What was written is kept for a look: {_listed(free)}{old}.'
