"""When two LRs are one."""

from __future__ import annotations

SAME_LR = 0.02
"""LRs closer than this part of them are one LR to whoever reads a sentence, and to whoever decides what to say."""


def same_lr(a: float, b: float) -> bool:
    """Whether two LRs are one to whoever reads a sentence."""
    return a == b if b == 0 else abs(a / b - 1) <= SAME_LR
