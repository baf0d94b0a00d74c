"""The revision of the wire contract, which both sides tell. Pure.

It grows by one with every change that the other side can't read as it is meant. New fields that may be left alone, and
new calls, are no such change.
"""

from __future__ import annotations

REVISION = 1
"""The revision that this code speaks."""
REVISION_KEY = "lrpilot-revision"
"""The metadata in which a client tells its own with every call. Who tells none is taken at their word."""
