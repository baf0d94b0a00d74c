"""A figure that a notebook shows, be its pyplot imported or not."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure of its own, not pyplot's: no global state, no window, and the user's plots are left alone."""

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
