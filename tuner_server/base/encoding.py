"""Texts from outside that are no UTF-8."""

from __future__ import annotations


def is_text(value: object) -> bool:
    """Whether a value's text can be written; Python reads other bytes than UTF-8 into characters that can't."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True
