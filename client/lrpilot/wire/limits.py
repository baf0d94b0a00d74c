"""The largest values that clients send and servers take, and the other way round. Pure."""

from __future__ import annotations

MAX_STEPS = 2**40
"""The most steps: a thousand a second for 35 years. Sums of such numbers fit into their 64 bits on the wire."""
MAX_VALIDATION_LOSS = 3.4e38
"""The highest validation loss: one beyond single precision is a divergence, as with a training loss."""
MAX_NOTE = 1000
"""The most characters of a client's sentence on a report, which the server keeps with every state of the job."""
HEARTBEAT_S = 10.0
"""How long a stream of a job is silent at most: the job is sent again, changed or not. Proxies close what is silent for
long, and some forget it without a word."""
SILENT_S = 3 * HEARTBEAT_S
"""A stream that is silent for so long is dead."""
