"""Declaration of backbones whose tensors are named as in the public checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileNames:
    """What a backbone whose tensors are not renamed declares as ``file_names``.

    Every tensor of the checkpoint must then be the backbone's, or in a module below.

    Attributes:
        library: library whose names they are ('timm').
        classifier: modules of the checkpoint that tell its number of classes.
        heads: modules behind the last feature level, and auxiliary classifiers.
        left_out: modules of feature levels that the backbone does not run.
        gates: attention modules of the backbone, whatever their class; a public
            checkpoint may be without them.
    """

    library: str
    classifier: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()

    def part_of(self, key: str) -> str:
        """Return which part a tensor is of: 'classifier', 'heads', 'left_out' or ''."""
        for part in ('classifier', 'heads', 'left_out'):
            if any(key.startswith(f'{name}.') for name in getattr(self, part)):
                return part
        return ''


def file_names_of(backbone: object) -> FileNames | None:
    """Return what a backbone declares; None where it has mmdet's names."""
    names = getattr(backbone, 'file_names', None)
    return names if isinstance(names, FileNames) else None
