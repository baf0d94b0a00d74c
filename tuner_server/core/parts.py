"""In which parts a long directive of committed steps is reported."""

PARTS = 20
"""So many parts, for those who watch."""
MIN_PART = 50
"""... but none shorter than this many steps: each costs a round trip."""


def report_every(n_steps: int) -> int:
    """Steps between two reports on a directive of `n_steps`."""
    return max(-(-n_steps // PARTS), MIN_PART)
