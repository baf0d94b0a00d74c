"""Signs of life in streams, by which each side knows that the other one is still there."""

from __future__ import annotations

HEARTBEAT_S = 10.0
"""How long a stream of a job is silent at most: the job is sent again, changed or not. Proxies close what is silent for
long, and some forget it without a word."""
SILENT_S = 3 * HEARTBEAT_S
"""A stream that is silent for so long is dead."""
