"""COCO annotation files as columns, with entries that are decoded when asked for.

A file of 860,000 objects takes gigabytes as dictionaries, almost all of it points of
polygons. Here the numbers that filters and checks need are arrays, and of each entry
the place in the file is kept, from where it is read again.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from eca_mmdet.datasets.entries import Entry, is_crowd_flag, is_segmentation
from eca_mmdet.datasets.index_cache import (
    cache_path,
    one_at_a_time,
    read_columns,
    write_columns,
)
from eca_mmdet.datasets.masks import (
    LEAST_OVERLAP,
    mask_api,
    mask_faults,
    overlap,
    polygon_extents,
    to_rle,
)
from eca_mmdet.utils.errors import RunError
from eca_mmdet.utils.io import no_garbage_collection, require_regular

Array = npt.NDArray[Any]
T = TypeVar('T')

_CHUNK = 1 << 9
"""Annotations that are held as objects at a time: as many as the CPU's cache holds."""

_VERSION = 'coco-index-1'
"""Of the columns; caches of another are not read."""

_LEAST_CACHED = 1_000_000
"""Bytes of a file that is worth a cache; a smaller one is read in some milliseconds."""

_RESOLUTION_NS = 2 * 10**9
"""Two writes to a file within this time may leave the same time."""

_KEPT = 8
"""Files whose index a process keeps."""

_REFUSED = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)


class ChangedFileError(RunError):
    """An annotation file that was written to while it was in use."""

    code = 'file-unreadable'


class Mask(IntEnum):
    """What an annotation's segmentation is."""

    NONE = 0
    SOUND = 1  # polygons or an RLE of its image, at the place of the box
    OTHER = 2  # anything else, to be looked at


class Stamp(NamedTuple):
    """What tells that a file is still the same without reading it."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """Return the stamp of a file's state."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: Annotated[str, msgspec.Meta(min_length=1)]
    width: float | None = None
    height: float | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    area: float | None = None
    iscrowd: bool | int | float | None = None
    ignore: bool | int | float | None = None
    segmentation: list[list[float]] | dict[str, Any] | None = None


class _OddMask(_Annotation, gc=False):
    segmentation: Any = None


class _Segmentation(msgspec.Struct):
    segmentation: Any = None


class _File(msgspec.Struct):
    images: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_SEGMENTATION = msgspec.json.Decoder(_Segmentation)
_ENTRY = msgspec.json.Decoder(dict[str, Any])
_ENTRIES = msgspec.json.Decoder(list[dict[str, Any]])


class Entries(Sequence[Any]):
    """Entries at some ``rows`` of a file, which ``read`` decodes when asked for.

    They equal a list of the same entries. A slice, indices or a mask give a part.
    """

    def __init__(self, read: Callable[[Array], list[Any]], rows: Any) -> None:
        self.read = read
        self.rows: Array = np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, (int, np.integer)):
            return self.read(self.rows[np.array([at])])[0]
        return Entries(self.read, self.rows[at])

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _CHUNK):
            yield from self.read(self.rows[start : start + _CHUNK])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    def __deepcopy__(self, memo: Any) -> Entries:
        return self


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """N annotations on M images in K categories, in the order of the file.

    Every id is an int, every image has a file name and every category a name.

    Attributes:
        annotated: the file has a list of annotations, though it may be empty.
        image_ids: (M,) int64; an id may occur twice.
        image_sizes: (M, 2) float64 width and height; NaN where the file has none.
        category_ids: (K,) int64; an id may occur twice.
        ids: (N,) int64; an id may occur twice.
        image_id: (N,) int64.
        category_id: (N,) int64.
        image: (N,) int32 positions of the images, -1 for one that is not in the file.
            Of images that share an id, it is the last, as in pycocotools.
        category: (N,) int32 positions of the categories, in the same way.
        boxes: (N, 4) float64 x, y, width, height; NaN where there is none.
        areas: (N,) float64; NaN where there is none.
        crowd: (N,) int8: 0, 1, or -1 where the file does not say.
        ignore: (N,) bool.
        masks: (N,) uint8 of :class:`Mask`.
        order: (N,) int32 positions of the annotations, sorted by ``image``.
        starts: (M + 1,) int64 limits of each image in ``order``.
        image_spans: (M, 2) int64 offset and length in bytes of each entry in the file.
        category_spans: (K, 2) int64.
        spans: (N, 2) int64.
        shared: the columns are those of a cache, which all processes share.
    """

    path: Path
    sha256: str
    stamp: Stamp
    annotated: bool
    image_ids: Array
    image_sizes: Array
    image_spans: Array
    category_ids: Array
    category_spans: Array
    ids: Array
    image_id: Array
    category_id: Array
    image: Array
    category: Array
    boxes: Array
    areas: Array
    crowd: Array
    ignore: Array
    masks: Array
    order: Array
    starts: Array
    spans: Array
    shared: bool = False
    _handle: list[int] = field(default_factory=list, init=False, repr=False)

    def __len__(self) -> int:
        """Return the number of annotations."""
        return len(self.ids)

    def __deepcopy__(self, memo: Any) -> CocoIndex:
        return self

    def __reduce__(self) -> Any:
        if self.shared:
            return _reopen, (self.path, self.sha256)
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return _restore, (self.path, self.sha256, self.stamp, self.annotated, columns)

    def of_image(self, image: int) -> Array:
        """Return the positions of the annotations of an image, in the file's order."""
        return self.order[self.starts[image] : self.starts[image + 1]]

    def distinct_images(self) -> Array:
        """Return the positions of the images in the order in which ids first occur.

        Of images that share an id, it is the last, as in pycocotools.
        """
        _, first = np.unique(self.image_ids, return_index=True)
        return _finder(self.image_ids)(self.image_ids[np.sort(first)])

    def images(self, positions: Iterable[int]) -> list[Entry]:
        """Return image entries with all their keys."""
        return self._decode(self.image_spans, positions, _ENTRY)

    def annotations(self, positions: Iterable[int]) -> list[Entry]:
        """Return annotations with all their keys."""
        return self._decode(self.spans, positions, _ENTRY)

    def segmentations(self, positions: Iterable[int]) -> list[Any]:
        """Return polygons or RLEs as in the file, None where there is none."""
        found = self._decode(self.spans, positions, _SEGMENTATION)
        return [
            (one.get('segmentation') if isinstance(one, dict) else one.segmentation)
            for one in found
        ]

    def categories(self) -> list[Entry]:
        """Return all categories."""
        return self._list(self.category_spans)

    def content(self) -> dict[str, Any]:
        """Return what the file holds, annotations decoded when they are asked for."""
        lists = [self.image_spans, self.category_spans, *[self.spans] * bool(len(self))]
        cuts = sorted(at for spans in lists for at in _limits(spans))
        pairs = zip([0, *cuts[1::2]], [*cuts[::2], self.stamp.size], strict=True)
        rest = b''.join(self._read(start, stop - start) for start, stop in pairs)
        content: dict[str, Any] = _parse(rest, _ENTRY)
        content['images'] = self._list(self.image_spans)
        content['categories'] = self.categories()
        if self.annotated:
            content['annotations'] = Entries(self.annotations, range(len(self)))
        return content

    def _list(self, spans: Array) -> list[Entry]:
        start, stop = _limits(spans)
        found: list[Entry] = _parse(
            b'[' + self._read(start, stop - start) + b']', _ENTRIES
        )
        return found

    def _decode(
        self, spans: Array, positions: Iterable[int], decoder: msgspec.json.Decoder[Any]
    ) -> list[Any]:
        self._require_unchanged()
        chosen = spans[np.asarray([*positions], np.int64)].tolist()
        texts = (os.pread(self._handle[0], length, at) for at, length in chosen)
        return [_parse(text, decoder) for text in texts]

    def _read(self, start: int, length: int) -> bytes:
        self._require_unchanged()
        return os.pread(self._handle[0], length, start)

    def _require_unchanged(self) -> None:
        """Reject the file if it was written to; a new file of its name is another."""
        if not self._handle:
            try:
                self.hold(os.open(self.path, os.O_RDONLY))
            except OSError as error:
                raise ChangedFileError(
                    f'annotation file {str(self.path)!r} cannot be read any more: '
                    f'{error.strerror}.'
                ) from error
        stamp = Stamp.of(os.fstat(self._handle[0]))
        if stamp == self.stamp:
            return
        same = stamp.size == self.stamp.size and _sha256(self._handle[0]) == self.sha256
        if not same:
            raise _changed(self.path)
        object.__setattr__(self, 'stamp', stamp)  # only touched, or copied back

    def hold(self, handle: int) -> None:
        """Read entries through an open file, which is closed with this object."""
        self._handle[:] = [handle]
        weakref.finalize(self, os.close, handle)


def _restore(
    path: Path, sha256: str, stamp: Stamp, annotated: bool, columns: dict[str, Any]
) -> CocoIndex:
    return CocoIndex(path, sha256, stamp, annotated, **columns)


def _reopen(path: Path, sha256: str) -> CocoIndex:
    """Return the index of a file in another process, from the cache."""
    index = read_index(path)
    if index is None or index.sha256 != sha256:
        raise _changed(path)
    return index


def _changed(path: Path) -> ChangedFileError:
    return ChangedFileError(
        f'annotation file {str(path)!r} was changed while it was in use. Start again, '
        'and give new files a new name.'
    )


def _limits(spans: Array) -> tuple[int, int]:
    return int(spans[0, 0]), int(spans[-1].sum())


def _parse(text: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(text)
    except _REFUSED:  # text of a key that is not read here, e.g. 1e999
        return json.loads(text)


_COLUMNS = tuple(
    name for name, kind in CocoIndex.__annotations__.items() if kind == 'Array'
)

_indexes: OrderedDict[Path, tuple[Stamp, CocoIndex | None]] = OrderedDict()


def read_index(path: str | Path) -> CocoIndex | None:
    """Return the index of an annotation file, read once while it does not change.

    None if an entry is not what COCO says, e.g. a text id or NaN, or if the file is not
    there or a pipe: ``read_annotations`` reads such files or says what is wrong.

    Raises:
        UserError: the file is too large to be read, or not a regular file.
    """
    path = Path(path).absolute()
    try:
        stamp = Stamp.of(path.stat())
        if not path.is_file():
            return None
        known = _indexes.get(path)
        if known is None or known[0] != stamp:
            require_regular(path, 'annotation file')
            known = _indexes[path] = _open(path)
    except OSError:  # it is not there, or must not be read
        return None
    _indexes.move_to_end(path)
    while len(_indexes) > _KEPT:
        _indexes.popitem(last=False)
    return known[1]


def _open(path: Path) -> tuple[Stamp, CocoIndex | None]:
    handle = os.open(path, os.O_RDONLY)
    index = None
    try:
        stamp = Stamp.of(os.fstat(handle))
        cache = cache_path(path) if stamp.size >= _LEAST_CACHED else None
        if cache is None:
            index = _read(path, handle, stamp)
        else:
            with one_at_a_time(handle):
                index = _from_cache(path, handle, stamp, cache)
                if index is None:
                    index = _read(path, handle, stamp, cache)
        if index is not None:
            index.hold(handle)
    finally:
        if index is None:
            os.close(handle)
    return stamp, index


def _from_cache(path: Path, handle: int, stamp: Stamp, cache: Path) -> CocoIndex | None:
    """Return the index of a cache of this content, None if there is none.

    A file of the same size, time and inode has the same content, as for git; unless it
    was written to after it was read and within the resolution of its time. Any other is
    read for its hash.
    """
    found = read_columns(cache)
    if found is None:
        return None
    metadata, columns = found
    if metadata.get('version') != _VERSION or set(columns) != {*_COLUMNS}:
        return None
    known = Stamp(*map(int, metadata['stamp'].split()))
    sure = known.mtime_ns + _RESOLUTION_NS < int(metadata['read_ns'])
    sha256, start = metadata['sha256'], time.time_ns()
    same = sure and known == stamp
    if not same and (known.size != stamp.size or _sha256(handle) != sha256):
        return None
    annotated = metadata['annotated'] == '1'
    index = CocoIndex(path, sha256, stamp, annotated, **columns, shared=True)
    if not same:
        _store(index, cache, start)
    return index


def _read(
    path: Path, handle: int, stamp: Stamp, cache: Path | None = None
) -> CocoIndex | None:
    start = time.time_ns()
    if not os.pread(handle, 4096, 0).lstrip().startswith(b'{'):
        return None  # e.g. two GiB of zeros
    with open(handle, 'rb', closefd=False) as file:
        data = file.read()
    if Stamp.of(os.fstat(handle)) != stamp:  # it is being written
        return None
    with no_garbage_collection():
        index = _build(path, stamp, data)
    del data
    if index is not None and cache and _store(index, cache, start):
        return _from_cache(path, handle, stamp, cache) or index
    return index


def _store(index: CocoIndex, cache: Path, read_ns: int) -> bool:
    metadata = {
        'version': _VERSION,
        'path': str(index.path),
        'sha256': index.sha256,
        'stamp': ' '.join(map(str, index.stamp)),
        'read_ns': str(read_ns),
        'annotated': str(int(index.annotated)),
    }
    return write_columns(cache, metadata, {k: getattr(index, k) for k in _COLUMNS})


def _sha256(handle: int) -> str:
    # Processes that were forked share the position in the file: it stays where it is.
    digest, at = hashlib.sha256(), 0
    while part := os.pread(handle, 1 << 20, at):
        digest.update(part)
        at += len(part)
    return digest.hexdigest()


def _build(path: Path, stamp: Stamp, data: bytes) -> CocoIndex | None:
    """Return the index of a file's bytes, None if it is not accepted."""
    try:
        _require_utf8(data)
        file = msgspec.json.decode(data, type=_File)
        if not file.images or not file.categories:
            return None
        images = _decode_all(file.images, _Image)
        categories = _decode_all(file.categories, _Category)
        sizes = [(image.width, image.height) for image in images]
        columns: dict[str, Any] = {
            'image_ids': np.array([image.id for image in images], np.int64),
            'image_sizes': np.array(sizes, np.float64).reshape(-1, 2),
            'image_spans': _spans(data, file.images),
            'category_ids': np.array([one.id for one in categories], np.int64),
            'category_spans': _spans(data, file.categories),
        }
        annotated = file.annotations is not msgspec.UNSET
        annotations = cast(list[msgspec.Raw], file.annotations if annotated else [])
        columns |= _annotation_columns(annotations, columns)
        columns['spans'] = _spans(data, annotations)
    except _REFUSED:
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    return CocoIndex(path, sha256, stamp, annotated, **columns)


def _require_utf8(data: bytes) -> None:
    """Raise ValueError unless it is UTF-8: text that is passed over may not be."""
    if not data.isascii():
        decoder = codecs.getincrementaldecoder('utf-8')()
        for start in range(0, len(data), 1 << 24):
            decoder.decode(data[start : start + (1 << 24)])


def _decode_all(entries: list[msgspec.Raw], kind: type[T]) -> list[T]:
    decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
    found: list[T] = decoder.decode(b'[' + b','.join(entries) + b']')
    return found


def _spans(data: bytes, entries: list[msgspec.Raw]) -> Array:
    """Return offset and length of each entry of a list: objects, a comma between."""
    spans = np.empty((len(entries), 2), np.int64)
    spans[:, 1] = np.fromiter(map(len, entries), np.int64, len(entries))
    places = [_address(raw) - _address(data) for raw in entries[:2]]
    if len(entries) > 1:  # the same text between all of them, or a search for each
        gap = places[1] - places[0] - len(entries[0])
        starts = places[0] + np.cumsum(spans[:-1, 1] + gap)
        text = np.frombuffer(data, np.uint8)
        braces = (
            (text.take(starts - back, mode='clip') == ord('{')).mean()
            for back in range(gap)
        )
        if gap < 99 and [*braces] == [1] + [0] * (gap - 1):
            places[1:] = starts.tolist()
        else:
            at = places.pop()
            for length in spans[1:, 1].tolist():
                places.append(data.index(b'{', at))
                at = places[-1] + length
    spans[:, 0] = places
    return spans


def _address(data: Any) -> int:
    found: int = np.frombuffer(data, np.uint8).__array_interface__['data'][0]
    return found


def _annotation_columns(
    entries: list[msgspec.Raw], known: dict[str, Array]
) -> dict[str, Array]:
    count = len(entries)
    columns = {
        name: np.empty((count, *shape), kind)
        for name, kind, shape in (
            ('ids', np.int64, ()),
            ('image_id', np.int64, ()),
            ('category_id', np.int64, ()),
            ('boxes', np.float64, (4,)),
            ('areas', np.float64, ()),
            ('crowd', np.int8, ()),
            ('ignore', np.bool_, ()),
            ('image', np.int32, ()),
            ('masks', np.uint8, ()),
        )
    }
    find_images = _finder(known['image_ids'])
    no_box = (np.nan,) * 4
    for start in range(0, count, _CHUNK):
        texts = entries[start : start + _CHUNK]
        here = slice(start, start + len(texts))
        try:
            part = _decode_all(texts, _Annotation)
        except msgspec.ValidationError:
            part = [*map(_without_odd_mask, _decode_all(texts, _OddMask))]
        *ids, boxes, areas, crowd, ignore, masks = zip(
            *map(msgspec.structs.astuple, part), strict=True
        )
        for name, values in zip(('ids', 'image_id', 'category_id'), ids, strict=True):
            columns[name][here] = np.array(values, np.int64)
        sides = chain.from_iterable(box or no_box for box in boxes)
        columns['boxes'][here] = np.fromiter(sides, np.float64).reshape(-1, 4)
        columns['areas'][here] = areas  # None becomes NaN
        flags = {value: _flag(value) for value in {*crowd}}
        columns['crowd'][here] = [flags[value] for value in crowd]
        columns['ignore'][here] = ignore
        images = columns['image'][here] = find_images(columns['image_id'][here])
        sizes = known['image_sizes'][images]
        sizes[images < 0] = np.nan
        columns['masks'][here] = _look_at_masks(masks, sizes, columns['boxes'][here])
    columns['category'] = _finder(known['category_ids'])(columns['category_id'])
    order = np.argsort(columns['image'], kind='stable')
    columns['order'] = order.astype(np.int32)
    limits = np.arange(len(known['image_ids']) + 1)
    columns['starts'] = np.searchsorted(columns['image'][order], limits)
    return columns


def _without_odd_mask(entry: _OddMask) -> _OddMask:
    if entry.segmentation and not is_segmentation(entry.segmentation):
        entry.segmentation = True
    return entry


def _finder(ids: Array) -> Callable[[Array], Array]:
    """Return a function from ids to the last position of each, -1 where it is not."""
    by_id = np.argsort(ids, kind='stable').astype(np.int32)
    ids = ids[by_id]

    def find(wanted: Array) -> Array:
        at = np.searchsorted(ids, wanted, 'right') - 1
        return np.where((at >= 0) & (ids[at] == wanted), by_id[at], np.int32(-1))

    return find


def _flag(value: float | None) -> int:
    if value is None:
        return -1
    if not is_crowd_flag(value):
        raise ValueError(f'iscrowd {value} is neither 0 nor 1')
    return int(value)


def _look_at_masks(masks: Sequence[Any], sizes: Array, boxes: Array) -> Array:
    """Return the kind of each mask; ``sizes`` are width and height of the images."""
    present = np.array([*map(bool, masks)], bool)
    kinds = np.where(present, np.uint8(Mask.OTHER), np.uint8(Mask.NONE))
    drawable = ((0 < sizes) & (sizes < 2**31)).all(1) & (sizes.prod(1) < 2**32)
    outlined = np.array([type(mask) is list for mask in masks], bool)
    polygons = np.flatnonzero(outlined & present & drawable)
    rles = np.flatnonzero(present & ~outlined & drawable)
    faults = mask_faults([masks[at] for at in rles], sizes[rles, ::-1].tolist())
    rles = np.delete(rles, [*faults])
    extents = np.full((len(masks), 4), np.nan)
    with np.errstate(all='ignore'):
        outlines = [masks[at] for at in polygons]
        extents[polygons] = polygon_extents(outlines, sizes[polygons])
        if len(rles):
            found = mask_api().toBbox([to_rle(masks[at], 0, 0) for at in rles])
            found[(found[:, 2:] <= 0).any(1)] = np.nan
            extents[rles] = found
        kinds[overlap(extents, boxes) >= LEAST_OVERLAP] = Mask.SOUND
    return kinds
