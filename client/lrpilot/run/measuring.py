"""What is measured at every step besides the loss, for reports: where that fails, a report has none and is sound."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from lrpilot.backends.base import Backend
from lrpilot.v1 import tuner_pb2 as pb

log = logging.getLogger("lrpilot")


def begin_measuring(
    backend: Backend, directive: pb.Directive, n_steps: int, earlier: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Has a backend measure what a directive asks for, and nothing else.

    Args:
        backend: the run.
        directive: that begins.
        n_steps: its steps between two reports.
        earlier: what was measured before, by name, in a run that is resumed in the middle of it.
    """
    measures = {name: (earlier or {}).get(name, ()) for name in directive.measures}
    try:
        backend.measure(n_steps, measures)
    except Exception:
        log.warning("lrpilot: %s can't be measured", ", ".join(measures) or "nothing", exc_info=True)


def measured(backend: Backend, directive: pb.Directive, n_steps: int, *, alone: bool) -> list[pb.Measure]:
    """What the last steps of a directive came to, as far as it asks for it; of several ranks all come here.

    Args:
        backend: the run.
        directive: that its steps belong to.
        n_steps: how many.
        alone: whether this process trains alone, so that no rank is missed by the others.

    Raises:
        RuntimeError: another rank has parted, or has gone.
    """
    if not directive.measures:
        return []
    try:
        series = backend.flush_measures(n_steps)
    except Exception:
        if not alone:
            raise
        log.warning("lrpilot: what was measured can't be read", exc_info=True)
        return []
    return [pb.Measure(name=name, values=values) for name, values in series.items()]
