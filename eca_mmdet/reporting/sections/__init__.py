"""Sections of the report page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eca_mmdet.reporting.run import Options, Run


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: anchor.
        title: text of its link at the top of the page.
        context: returns the variables of the template, or None to leave the section
            out. ``'charts'`` lists the section's charts. What cannot be shown of a run
            is added to its ``missing``.
        template: Jinja2 source with the macros of ``macros.html.j2``, variables
            ``runs`` and those of ``context``, escaped.
        heading: if it differs from the title.
        lead: paragraph under the heading.
    """

    id: str
    title: str
    context: Callable[[Sequence[Run], Options], dict[str, Any] | None]
    template: str = '{{ plots(charts) }}'
    heading: str = ''
    lead: str = ''
