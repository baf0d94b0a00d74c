"""How the steps of a directive are divided: into parts that are reported, and by validations."""

PARTS = 20
"""So many parts, for those who watch."""
MIN_PART = 50
"""... but none shorter than this many steps: each costs a round trip."""


def report_every(n_steps: int) -> int:
    """Steps between two reports on a directive of `n_steps`."""
    return max(-(-n_steps // PARTS), MIN_PART)


def evenly(n_steps: int, count: int) -> tuple[int, ...]:
    """`count` steps (fewer in a short directive), evenly spaced, the last one being `n_steps`."""
    count = min(count, n_steps)
    return tuple(round(n_steps * (i + 1) / count) for i in range(count))
