"""What is written to a terminal, whose orders are ours alone.

Names, reasons and errors come from clients, from servers and from policies that others wrote. In them brackets are no
markup, words between colons no pictures, and characters that a terminal obeys are made visible.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from lrpilot.wire.text.plain_text import plain
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text


class Terminal(Console):
    """A console on standard output or error. Styles are given as `Text`, never within a string."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        """Writes as wide as its terminal is, or `width`."""
        super().__init__(markup=False, emoji=False, stderr=stderr, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string, as it was meant; its own lines stay lines."""
        return super().render_str(_plain_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The parts of what is shown. What the library itself orders, such as to move the cursor, are other parts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_plain_lines(segment.text), segment.style)


def say(text: str, *, stderr: bool = False) -> None:
    """Writes one line, whatever is in the text."""
    print(plain(text), file=sys.stderr if stderr else sys.stdout)


def _plain_lines(text: str) -> str:
    if text.isprintable():
        return text
    return "\n".join(map(plain, text.split("\n")))
