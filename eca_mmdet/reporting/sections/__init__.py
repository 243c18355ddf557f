"""Sections of the report page, in their order. Each module is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from eca_mmdet.reporting.run import Options, Run
from eca_mmdet.reporting.sections import (
    classes,
    config,
    confusion,
    costs,
    errors,
    files,
    gates,
    images,
    precision,
    results,
    training,
    validation,
)


class Section(Protocol):
    """What a module of this package defines.

    Attributes:
        ID: anchor of the section.
        TITLE: text of its link at the top of the page.
        TEMPLATE: Jinja2 source; macros ``swatch`` and ``plots``, variables ``runs`` and
            those of ``context``, escaped.
    """

    ID: str
    TITLE: str
    TEMPLATE: str

    def context(self, runs: Sequence[Run], options: Options) -> dict[str, Any] | None:
        """Return the variables of the template, or None to leave the section out.

        ``'charts'`` lists the specifications of the section's charts. What cannot be
        shown of a run is added to its ``missing``.
        """


SECTIONS: tuple[Section, ...] = (
    results,
    training,
    validation,
    precision,
    classes,
    errors,
    confusion,
    images,
    gates,
    costs,
    config,
    files,
)
