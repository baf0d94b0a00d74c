"""The largest values that clients send and servers take, and the other way round. Pure."""

from __future__ import annotations

MAX_STEPS = 2**40
"""A thousand steps a second for 35 years. Sums of such numbers fit into the 64 bits that they have on the wire."""
MAX_VALIDATION_LOSS = 3.4e38
"""A validation loss beyond single precision is a divergence, as a training loss is."""
MAX_NOTE = 1000
"""Characters of a client's sentence on a report. The server keeps it with every state of the job."""
