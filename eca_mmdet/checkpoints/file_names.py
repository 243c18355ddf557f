"""Backbones whose tensors are named as in the public file, so that nothing is renamed.

Such a backbone has an attribute ``file_names``, a :class:`FileNames`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from eca_mmdet.checkpoints.detector_kind import Heads
from eca_mmdet.checkpoints.inspection import classes_of
from eca_mmdet.checkpoints.key_maps import Canonical


@dataclass(frozen=True)
class FileNames:
    """What a backbone declares whose tensors are named as in the public file.

    Every tensor of the file must then be the backbone's, or one of those below.

    Attributes:
        library: whose names they are ('timm').
        classifier: modules of the file that tell its number of classes.
        heads: modules behind the last feature level, and auxiliary classifiers.
        left_out: modules of feature levels that the backbone does not run.
        gates: attention modules of the backbone, whatever their class; a public file
            may be without them.
    """

    library: str
    classifier: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()

    def is_stray(self, key: str) -> bool:
        """Tell whether a tensor that the backbone lacks is of another network."""
        return not _is_in(key, self.left_out)


def file_names_of(backbone: object) -> FileNames | None:
    """Return what a backbone declares, None for one in mmdet's names."""
    found = getattr(backbone, 'file_names', None)
    return found if isinstance(found, FileNames) else None


def as_in_file(state: Mapping[str, Tensor], names: FileNames) -> Canonical:
    """Sort a file's tensors into backbone and classifier; no name is changed.

    Args:
        state: as read; in a detector's, 'backbone.' leads the names.
        names: of the backbone that they are meant for.
    """
    result = Canonical(names.library)
    owned = any(key.startswith('backbone.') for key in state)
    for original, tensor in state.items():
        key = original.removeprefix('backbone.') if owned else original
        if owned and key == original:
            result.rest.append(original)
        elif _is_in(key, names.classifier):
            result.classifier[original] = tensor
        elif _is_in(key, names.heads):
            result.rest.append(original)
        else:
            result.backbone[key] = tensor
            result.source[key] = original
    return result


def origin_in_file(canonical: Canonical, heads: Heads | None) -> str:
    """Return '(timm, ImageNet)' and the like.

    Args:
        canonical: from :func:`as_in_file`.
        heads: of a detector.
    """
    classes = classes_of(canonical, heads)
    trained = f'{classes} classes' if classes else ''
    if heads:
        return f'({heads.detector} of MMDetection {heads.version}, {trained})'
    trained = 'ImageNet' if classes == 1000 else trained
    return f'({", ".join(filter(None, (canonical.layout, trained)))})'


def _is_in(key: str, modules: tuple[str, ...]) -> bool:
    return any(key.startswith(f'{name}.') for name in modules)
