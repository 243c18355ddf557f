"""``eca-mmdet export``: a detector for programs without PyTorch."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eca_mmdet.atomic import whole_file
from eca_mmdet.errors import RunError, UserError, printable

if TYPE_CHECKING:
    from eca_mmdet.export.graph_file import Part
    from eca_mmdet.export.parity import Report
    from eca_mmdet.export.samples import Batch

_MOST_BYTES = 2**31 - 2**24
"""Of weights: an ONNX file is one message of less than 2 GB, with room for the rest."""

Size = tuple[int, int]


def run(args: argparse.Namespace) -> int:
    """Write the file and check it; nothing is put in its place before."""
    size = _size(args.size)
    out = Path(args.out)
    _require_place(out, args.force)
    from eca_mmdet.export.graph_file import make_part, require_packages, write_graph

    require_packages()
    trained, metadata = _prepare(args, size)
    model = trained.model
    batches, source = _batches(args, trained, metadata)
    part = make_part(model, args.part)
    _require_small(part.network)
    try:
        with whole_file(out) as partial:
            write_graph(partial, part, model, size, metadata)
            _tell(_told(partial, part, metadata))
            if args.check:
                _tell(f'\nChecked on images {source}.')
                _check(partial, part, model, metadata, batches, out)
                if args.part == 'all':
                    _check_metadata(partial, trained, out)
    except OSError as error:
        raise UserError(
            f'{out} cannot be written: {error.strerror or error}. Check the folder and '
            'the space on its disk.'
        ) from error
    unchecked = '' if args.check else ', and not checked: nobody knows if it is right'
    _tell(f'Written: {out}{unchecked}.')
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


def _require_place(out: Path, force: bool) -> None:
    """Refuse a name that the file cannot have, before long work."""
    if out.suffix != '.onnx':
        raise UserError(f'{out}: write to a name in .onnx.')
    if out.is_dir() or not out.parent.is_dir():
        what = 'is a folder' if out.is_dir() else 'is in no folder that exists'
        raise UserError(f'{out} {what}; name a file to write.')
    if os.path.lexists(out) and not force:
        raise UserError(
            f'{out} exists, and nothing is overwritten. Name another file; or --force '
            'replaces it, once the new one is written and checked.'
        )
    if not os.access(out.parent, os.W_OK):
        raise UserError(
            f'{out.parent} takes no file of yours: it cannot be written to.'
        )


def _prepare(args: argparse.Namespace, size: Size | None) -> tuple[Any, dict[str, Any]]:
    """Load the detector; refuse what cannot be exported."""
    from eca_mmdet.export.covered import require_covered
    from eca_mmdet.export.properties import properties
    from eca_mmdet.inference.checkpoint import load_detector

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
    from eca_mmdet.export.samples import find_samples, make_batches

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


def _told(path: Path, part: Part, metadata: dict[str, Any]) -> str:
    """Return what is in the file, inputs and outputs a line each."""
    import onnx

    graph = onnx.load(str(path)).graph
    what = {
        'all': metadata['detector'],
        'backbone': f'the backbone of {metadata["detector"]}',
        'heads': f'neck and heads of {metadata["detector"]}',
    }[part.name]
    lines = [f'{what}, {path.stat().st_size / 2**20:.1f} MB']
    for title, values in (('takes', graph.input), ('gives', graph.output)):
        for one in values:
            kind = onnx.TensorProto.DataType.Name(one.type.tensor_type.elem_type)
            sides = one.type.tensor_type.shape.dim
            shape = ' x '.join(side.dim_param or str(side.dim_value) for side in sides)
            lines.append(f'  {title} {one.name:10} {kind.lower():6} {shape}')
    return '\n'.join(lines)


def _check(
    path: Path,
    part: Part,
    model: Any,
    metadata: dict[str, Any],
    batches: list[Batch],
    out: Path,
) -> None:
    """Compare the file to mmdet, and print how far they are apart.

    Raises:
        RunError: further than they may be. The file is kept, not at its place.
    """
    from eca_mmdet.export.parity import compare
    from eca_mmdet.export.report import table

    try:
        report = compare(path, part, model, metadata, batches)
        print(table(report), flush=True)
        if report.passes and report.bare:
            _tell_bare(report, metadata['score_threshold'])
            report = _compare_lower(part, model, metadata, batches)
            print(table(report), flush=True)
    except RunError as error:
        raise RunError(f'{error} {_kept(path, out)}') from error
    if not report.passes:
        raise RunError(
            'the file does not do what the detector does: the table says how far they '
            f'are apart. Do not use it. {_kept(path, out)}'
        )
    if report.bare:
        raise RunError(
            f'in {report.bare} of {report.images} images nothing was found even so, '
            'and nothing was compared; name images with objects: --images DIR. '
            f'{_kept(path, out)}'
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


def _check_metadata(path: Path, trained: Any, out: Path) -> None:
    """Open the file as its user does.

    Raises:
        RunError: it is refused, or says something else than the detector does.
    """
    from eca_mmdet.export.reopened import require_same_input

    try:
        require_same_input(path, trained)
    except UserError as error:
        raise RunError(f'{error} Do not use it. {_kept(path, out)}') from error


def _compare_lower(
    part: Part, model: Any, metadata: dict[str, Any], batches: list[Batch]
) -> Report:
    """Compare a copy of the graph whose objects may have any score."""
    from eca_mmdet.export.graph_file import write_graph
    from eca_mmdet.export.parity import compare

    roi_head = getattr(model, 'roi_head', None)
    test = (model.bbox_head if roi_head is None else roi_head).test_cfg
    before, test['score_thr'] = test['score_thr'], 0.0
    changed = metadata | {'score_threshold': 0.0}
    size = metadata['size'] and (metadata['size'][0], metadata['size'][1])
    try:
        with tempfile.TemporaryDirectory(prefix='eca-mmdet-') as folder:
            path = Path(folder) / 'lower.onnx'
            write_graph(path, part, model, size, changed)
            return compare(path, part, model, changed, batches)
    finally:
        test['score_thr'] = before


def _kept(path: Path, out: Path) -> str:
    """Copy what failed beside its place, and say so."""
    names = [f'{out.stem}.failed.onnx']
    names += [f'{out.stem}.failed-{index}.onnx' for index in range(2, 1000)]
    places = (out.with_name(name) for name in names)
    place = next(one for one in places if not os.path.lexists(one))
    with whole_file(place) as partial:
        shutil.copyfile(path, partial)
    old = f'; {out} is as it was' if os.path.lexists(out) else ''
    return f'What was written is kept for a look: {place}{old}.'
