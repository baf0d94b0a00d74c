"""When a directive is reported on, and when it validates."""

REPORTS = 20
"""Reports on a directive, for those who watch."""
FEWEST_STEPS_APART = 50
"""Two reports are no closer than this many steps: each costs a round trip."""


def report_every(n_steps: int) -> int:
    """Steps between two reports on a directive of `n_steps`."""
    return max(-(-n_steps // REPORTS), FEWEST_STEPS_APART)


def evenly(n_steps: int, count: int) -> tuple[int, ...]:
    """`count` steps (fewer in a short directive), evenly spaced, the last one being `n_steps`."""
    count = min(count, n_steps)
    return tuple(round(n_steps * (i + 1) / count) for i in range(count))
