"""What the user asked for."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        train: annotation file, or a folder of another format.
        val: the same; None where ``train`` is a folder that has both.
        images: folder of the images of both.
        val_images: folder of those of ``val``, if it is another.
        model: name, start of a name, or file of the config to inherit.
        weights: detector or backbone to start from.
        keep_classes: of a detector, keep the rows of classes with equal names.
        keep_defaults: leave image size and anchors as they are in the config.
        epochs: in place of the proposal.
        command: that was called, for the head of the config.
    """

    train: str
    val: str | None = None
    images: str | None = None
    val_images: str | None = None
    model: str | None = None
    weights: str | None = None
    keep_classes: bool = False
    keep_defaults: bool = False
    epochs: int | None = None
    command: str = ''

    @classmethod
    def of(
        cls,
        args: argparse.Namespace,
        train: str,
        val: str | None,
        command: Sequence[str],
    ) -> Options:
        """Return the options of a command that has ``add_data_options``.

        Args:
            args: its arguments.
            train: as the attribute.
            val: as the attribute.
            command: the words that were typed after 'eca-mmdet'.
        """
        return cls(
            train,
            val,
            args.images,
            args.val_images,
            args.model,
            args.weights,
            args.keep_classes,
            args.keep_defaults,
            args.epochs,
            shlex.join(['eca-mmdet', *command]),
        )
