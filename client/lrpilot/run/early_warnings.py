"""Looks for signs that a probe is about to diverge, in what it has measured so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lrpilot.backends.base import Backend
from lrpilot.run.coasting import attempt
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_NOTE
from lrpilot.wire.messages.early_warnings import warning_from_proto

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of the warnings of a probe."""

    note: str = ""
    """A sentence for people; empty: nothing was seen."""
    ends: bool = False
    """Whether the probe ends there."""


NOTHING = Seen()


def look(backend: Backend, directive: pb.Directive, ranks: Ranks | None) -> Seen:
    """What a probe shows of its warnings; of several ranks all come here. Waits for the device if there are any.

    Args:
        backend: the run.
        directive: that is being carried out.
        ranks: those that train together; None: this process trains alone.

    Raises:
        RuntimeError: another rank has parted, or has gone.
    """
    if not directive.warnings:
        return NOTHING
    own = _seen(directive, attempt(backend.peek_measures) or {})
    if ranks is None or not ranks.any(own.ends)[0] or own.ends:
        return own
    return Seen("another rank saw a sign that the probe was about to diverge", ends=True)


def _seen(directive: pb.Directive, measures: Mapping[str, Sequence[float]]) -> Seen:
    warmup = max(directive.profile.warmup - directive.profile.offset, 0)
    notes, ends = [], False
    for warning in map(warning_from_proto, directive.warnings):
        step = warning.first(measures.get(warning.measure, ()), warmup, directive.n_steps)
        if step is not None:
            notes.append(warning.words(step))
            ends |= warning.ends
    return Seen("; ".join(notes)[:MAX_NOTE], ends)
