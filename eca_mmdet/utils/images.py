"""Image files and arrays, read as mmdet reads them; figures of Matplotlib."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eca_mmdet.utils.errors import UserError
from eca_mmdet.utils.io import require_regular, whole_file
from eca_mmdet.utils.text import clipped, first_line

Array = npt.NDArray[Any]

MOST_BYTES = 1 << 30
"""Largest image file that is read."""


def to_rgb(image: Any) -> Array:
    """Return an array or a PIL image as OpenCV reads its file: (H, W, 3) uint8, RGB.

    Grey is repeated, an alpha channel is dropped without mixing, the upper eight of 16
    bits stay, and a PIL image is rotated by its EXIF data.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8 or uint16;
            or a PIL image.
    """
    if not isinstance(image, np.ndarray):
        image = _from_pil(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise UserError(
            'an image is an array (H, W), (H, W, 3) in the order RGB, or (H, W, 4); '
            f'got one of shape {image.shape}.',
            code='broken-image',
        )
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(
            f'an image is an array of uint8 (0-255) or uint16; got {image.dtype}. One '
            'of floats from 0 to 1: (255 * image).round().astype(numpy.uint8).',
            code='broken-image',
        )
    image = image[..., :3]
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    return np.ascontiguousarray(image)


def _from_pil(image: Any) -> Array:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise UserError(
            'an image is a path, a numpy array or a PIL image; got a '
            f'{type(image).__name__}.',
            code='broken-image',
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F':
        raise UserError(
            'a PIL image of floats (mode F) has no known range; convert it to L or '
            'RGB.',
            code='broken-image',
        )
    if image.mode.startswith('I'):  # 16 bits; I in older releases of PIL
        return np.asarray(image).clip(0, 65535).astype(np.uint16)
    return np.asarray(image.convert('RGB'))


def require_local(path: str) -> None:
    """Reject the address of an image or a stream; only files are read."""
    if '://' in path or path.startswith('data:'):
        advice = 'Name the file itself'
        if not path.startswith('file:'):
            advice = "Download it first (curl -O 'ADDRESS'), or record a stream"
        raise UserError(
            f'{clipped(path, 100)} is an address, and only files are read. {advice}.',
            code='file-not-found',
        )


def require_image_file(path: str) -> None:
    """Reject a path that is not a file, or a file too large for an image."""
    if not os.path.lexists(path):
        require_local(path)
    if not Path(path).is_file():
        what = 'is no regular file' if os.path.exists(path) else 'does not exist'
        raise UserError(
            f'{path} {what}; an image file is expected.', code='file-not-found'
        )
    require_regular(Path(path), 'image', MOST_BYTES)


def read_rgb(path: str) -> Array:
    """Read an image file as mmdet does: (H, W, 3) uint8, RGB."""
    require_image_file(path)
    image = decode(Path(path))
    if isinstance(image, str):
        return other_format(path, image)
    return np.ascontiguousarray(image[..., ::-1])


def other_format(path: str, reason: str) -> Array:
    """Read an image whose format OpenCV does not know: (H, W, 3) uint8, RGB.

    An older OpenCV has no GIF and AVIF. ``reason`` is the error where Pillow fails too.
    """
    import cv2

    try:
        if not cv2.haveImageReader(path):
            from PIL import Image

            with Image.open(path) as image:
                return to_rgb(image)
    except Exception:  # each decoder of Pillow raises its own; Pillow may be missing
        pass
    raise UserError(
        f'{path} is not an image that can be read: {reason}.', code='broken-image'
    )


def frames_of(path: str | Path) -> int:
    """Return the number of images in a file, of which the first is read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # on large images
            with Image.open(path) as image:
                several = image.format in ('AVIF', 'GIF', 'PNG', 'TIFF', 'WEBP')
                return int(getattr(image, 'n_frames', 1)) if several else 1
    except Exception:  # each decoder of Pillow raises its own
        return 1


def decode(path: Path) -> Array | str:
    """Decode an image file to (H, W, 3) uint8, BGR, or return why it cannot be read.

    OpenCV, as in mmdet, rejects a truncated file and rotates by the EXIF data.
    """
    import cv2

    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            return f'it has {size >> 20:,} MiB, too many for an image'
        raw = path.read_bytes()  # imread cannot open every name on every system
    except OSError as error:
        return str(error.strerror)
    if not raw:
        return 'it is empty'
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        return first_line(error)
    if image is None:
        return f'OpenCV reads no image from its {len(raw)} bytes'
    return np.asarray(image)


def encode_image(image: Array, suffix: str, quality: int = 95) -> bytes:
    """Return an image of (H, W, 3) uint8, RGB, as the bytes of a file.

    Args:
        image: the image.
        suffix: file name extension that selects the format, e.g. '.png'.
        quality: JPEG quality, 0-100.
    """
    import cv2

    jpeg = suffix.lower().startswith('.jp')
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if jpeg else []
    try:
        _, raw = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)
    except cv2.error as error:
        raise UserError(
            f'OpenCV does not write images of the format {suffix!r}; use .png or .jpg.',
            code='unsupported-format',
        ) from error
    return bytes(raw)


def new_figure(*args: Any, sharey: bool = False, **kwargs: Any) -> Any:
    """Return a figure and its axes; the user's backend is not touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(**kwargs)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*args, sharey=sharey)


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a PNG file whole or not at all."""
    try:
        with whole_file(path) as partial, warnings.catch_warnings():
            # Class names in scripts that the font lacks are drawn as empty boxes.
            warnings.filterwarnings('ignore', 'Glyph .* missing from')
            figure.savefig(partial, dpi=dpi, format='png')
    except OSError as error:
        raise UserError(
            f'{path} cannot be written: {error}', code='file-not-written'
        ) from error
