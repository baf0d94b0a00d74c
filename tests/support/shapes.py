"""Shapes of LRs to try everything with: one at least of every name."""

from __future__ import annotations

from hypothesis import strategies as st
from lrpilot.schedules.shape import Shape

SHAPES = tuple(
    map(
        Shape.parse,
        (
            "constant",
            "linear",
            "cosine",
            "exponential",
            "mirror_cosine",
            "polynomial(1.5)",
            "rex",
            "rex(0.9)",
            "one_minus_sqrt",
            "one_minus_square",
            "half_life(4)",
            "power_scheduler(0.2, 0.51)",
            "step(0.3, 0.25, 0.5)",
            "one_cycle",
            "infinite(0.1, 0.3, 0.2)",
            "points(0, 0.2, 0.25, 1, 0.25, 0.4, 0.6, 0.9, 1, 0.1)",
            "wsd(0.2)",
            "wsd/one_minus_sqrt(0.5)",
            "wsd/exponential(0.2)",
            "warmed/wsd/rex(0.1, 0.01, 0.4, 0.9)",
            "floored/cosine(0.25)",
            "floored/one_cycle",
        ),
    )
)
FALLING = tuple(
    shape for shape in SHAPES if not {"one_cycle", "infinite", "points", "warmed"} & set(shape.name.split("/"))
)
"""Those that begin at their highest LR and never rise."""


@st.composite
def _points(draw: st.DrawFn) -> Shape:
    """Lines through up to nine points, some of them with a jump."""
    inner = draw(st.lists(st.floats(0.01, 0.99), max_size=4, unique=True))
    jumps = draw(st.lists(st.sampled_from(inner), unique=True)) if inner else []
    return Shape.points((done, draw(st.floats(0, 1))) for done in (0.0, *sorted(inner + jumps), 1.0))


shapes = st.sampled_from(SHAPES) | _points()
"""Any shape, lines through any points among them."""
