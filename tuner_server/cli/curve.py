"""Curves as text: Unicode's braille patterns, two by four dots a character."""

from __future__ import annotations

from collections.abc import Sequence

from lrpilot.schedule.curves import COMMITTED, SEARCH, Curve, Piece, Scale
from lrpilot.schedule.curves import curves as in_columns
from rich.table import Table
from rich.text import Text

from tuner_server.history.numbers import count

WIDTH, HEIGHT = 64, 6
"""The size of a curve in characters."""
COLUMNS = 2 * WIDTH
"""The columns of dots in a curve."""
SHORT_AXIS = 24
"""Characters of an axis; on fewer the step at half has no room."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The dots of a pattern: the left column's from the top down, then the right one's (ISO/TR 11548-1)."""
_BLANK = 0x2800


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
            table.add_row(f"[bold]{name}" if i == 0 else "", label, line)
        for note in beyond(scale):
            table.add_row("", "", f"[dim]{note}")
    if found:
        table.add_row("[bold]step", "", step_axis(drawn.n_steps, -(-drawn.n_columns // 2)))
        searched = "search, or committed at first" if undone else "search"
        table.add_row("", "", f"[{COMMITTED}]committed[/] [{SEARCH}]{searched} (rolled back)")
    return table


def beyond(scale: Scale) -> list[str]:
    """What of a curve is not where its value is."""
    notes = []
    if scale.lowest < scale.low:
        notes.append(f"down to {scale.lowest:.3g}: what is below {scale.low:.3g} is drawn there")
    if scale.highest > scale.high:
        notes.append(f"search reached {scale.highest:.3g}: what is above {scale.high:.3g} is cut off")
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
    rows = [[_BLANK] * (-(-len(committed) // 2)) for _ in range(height)]
    styles = [[SEARCH] * len(row) for row in rows]
    for values, style in ((search, SEARCH), (committed, COMMITTED)):
        for column, value in enumerate(values):
            part = None if value is None else scale.part(value)
            if part is not None:
                row, dot = divmod(round((1 - part) * (4 * height - 1)), 4)
                rows[row][column // 2] |= _DOTS[column % 2][dot]
                styles[row][column // 2] = style
    return [
        Text.assemble(*((chr(pattern), style) for pattern, style in zip(*pair, strict=True)))
        for pair in zip(rows, styles, strict=True)
    ]
