"""Whether a directive makes sense: a server's mistake must not become the training's."""

from __future__ import annotations

import math

from lrpilot.convert import profile_from_proto
from lrpilot.errors import ProtocolError
from lrpilot.v1 import tuner_pb2 as pb

_STEPPING = {pb.PHASE_WARM_UP, pb.PHASE_RANGE_TEST, pb.PHASE_PROBE, pb.PHASE_TRAIN}


def check(directive: pb.Directive, number: int) -> None:
    """Refuses what can't be carried out. Raises: ProtocolError: the directive that should be `number` is nonsense."""
    fault = _fault(directive, number)
    if fault:
        raise ProtocolError(f"server: its directive {directive.number} makes no sense: {fault}", "INTERNAL")


def _fault(directive: pb.Directive, number: int) -> str:
    if directive.number != number:
        return f"number {directive.number} instead of {number}"
    if directive.phase == pb.PHASE_STOP:
        return "a stop with steps" if directive.n_steps else ""
    if directive.phase not in _STEPPING:
        return f"phase {directive.phase}"
    if directive.n_steps < 1:
        return f"{directive.n_steps} steps"
    try:
        profile = profile_from_proto(directive.profile)
    except ValueError as error:
        return str(error)
    lrs = [profile.lr(step) for step in (0, directive.n_steps // 2, directive.n_steps - 1)]
    if not all(math.isfinite(lr) and lr >= 0 for lr in lrs):
        return f"LRs {lrs}"
    steps = list(directive.validate_at)
    if steps != sorted(set(steps)) or (steps and not 0 <= steps[0] <= steps[-1] <= directive.n_steps):
        return f"validations after steps {steps}"
    if directive.report_every < 0 or (directive.HasField("give_up_above") and math.isnan(directive.give_up_above)):
        return "report_every is negative, or give_up_above no number"
    bars = [bar.from_step for bar in directive.promise]
    if bars != sorted(bars) or any(math.isnan(bar.loss + bar.validation) for bar in directive.promise):
        return f"a promise with bars from steps {bars}, or with one that is no number"
    return ""
