"""Curves as text: braille patterns, two by four dots a character."""

from __future__ import annotations

from collections.abc import Sequence

from lrpilot.schedule.curves import COMMITTED, SEARCH, Curve, Piece, Scale
from lrpilot.schedule.curves import curves as in_columns
from plotille import Canvas
from rich.table import Table
from rich.text import Text

from tuner_server.history.words.numbers import count

WIDTH, HEIGHT = 64, 6
"""The size of a curve in characters."""
COLUMNS = 2 * WIDTH
"""The columns of dots in a curve."""
SHORT_AXIS = 24
"""Characters of an axis; on fewer the step at half has no room."""
_BLANK = "\u2800"
"""The pattern without dots."""


def curves(found: Sequence[Piece], *, undone: bool = False) -> Table:
    """Loss and LR over all steps that were run, committed and search apart; what is drawn is labelled.

    Args:
        found: the pieces, in the order in which they were run.
        undone: whether some that did not stay are no search, but were committed first.
    """
    drawn = in_columns(found, COLUMNS)
    table = Table.grid(padding=(0, 1))
    for name, committed, search in (
        ("loss", drawn.committed_loss, drawn.search_loss),
        ("LR", drawn.committed_lr, drawn.search_lr),
    ):
        scale = Scale.over(committed, search, of_lrs=name == "LR")
        if scale is None:
            continue
        labels = [f"{scale.high:.3g}", *[""] * (HEIGHT - 2), f"{scale.low:.3g}"]
        lines = braille(committed, search, scale, HEIGHT)
        for i, (label, line) in enumerate(zip(labels, lines, strict=True)):
            table.add_row(Text(name if i == 0 else "", style="bold"), label, line)
        for note in beyond(scale):
            table.add_row("", "", Text(note, style="dim"))
    if found:
        table.add_row(Text("step", style="bold"), "", step_axis(drawn.n_steps, -(-drawn.n_columns // 2)))
        searched = "search, or committed at first" if undone else "search"
        key = Text.assemble(("committed", COMMITTED), " ", (f"{searched} (rolled back)", SEARCH))
        table.add_row("", "", key)
    return table


def beyond(scale: Scale) -> list[str]:
    """What of a curve is not where its value is."""
    notes = []
    if scale.lowest < scale.low:
        notes.append(f"down to {scale.lowest:.3g}: what is below {scale.low:.3g} is drawn there")
    if scale.highest > scale.high:
        notes.append(f"losses reached {scale.highest:.3g}: what is above {scale.high:.3g} is cut off")
    return notes


def step_axis(n_steps: int, width: int) -> str:
    """`0`, the step at half and the last one, under `width` characters of curve."""
    last = count(n_steps)
    if width < SHORT_AXIS:
        return f"0{last:>{max(width - 1, len(last) + 1)}}"
    half = count(n_steps // 2)
    return f"0{half:^{width - 1 - len(last)}}{last}"


def braille(committed: Curve, search: Curve, scale: Scale, height: int) -> list[Text]:
    """A dot for each value; `height` lines, from the top down. A character with committed steps has their colour."""
    every, stayed = (_canvas(-(-len(committed) // 2), height) for _ in range(2))
    for values, canvases in ((search, [every]), (committed, [every, stayed])):
        for column, value in enumerate(values):
            part = None if value is None else scale.part(value)
            if part is not None:
                for canvas in canvases:
                    canvas.point(column, part * (4 * height - 1))
    return [
        Text.assemble(*((dots, SEARCH if kept == _BLANK else COMMITTED) for dots, kept in zip(*pair, strict=True)))
        for pair in zip(*(canvas.plot("\n").split("\n") for canvas in (every, stayed)), strict=True)
    ]


def _canvas(width: int, height: int) -> Canvas:
    """Characters whose dots are at whole numbers, from 0 at the bottom left.

    Its own colours are not used: whether there are any is its console's business, not standard output's.
    """
    return Canvas(width, height, xmax=2 * width, ymax=4 * height)
