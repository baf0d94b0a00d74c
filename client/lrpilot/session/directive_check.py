"""Whether a directive makes sense: a server's mistake must not become the training's."""

from __future__ import annotations

import math
from collections.abc import Collection

from lrpilot.backends.measures import ROUND_NORM
from lrpilot.errors import ProtocolError
from lrpilot.session.run_state import RunState
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.messages.directives import committed
from lrpilot.wire.messages.early_warnings import warning_from_proto
from lrpilot.wire.messages.profiles import profile_from_proto

MAX_LR = 3.4028234663852886e38
"""The largest float32: optimizers keep LRs beside single-precision weights."""
MAX_LOSSES = 2**24
"""The most losses between two reports, and values of measures with them: their buffers have 64 MiB then."""
MAX_PARTS = 10_000
"""The most parts that a directive is reported in: each costs a round trip."""
MAX_ENTRIES = 1_000
"""The most entries of a list in a directive, which is looked through at every event."""
SMALLEST_PART = 50
"""A server may name so many steps as a part also where there are fewer."""
MOST_NAMED = 3
"""The most measures that one sentence names."""
MAX_WARNINGS = 64
"""The most early warnings of a probe: each is looked for over all of its steps at every look."""
_STEPPING = {pb.PHASE_WARM_UP, pb.PHASE_RANGE_TEST, pb.PHASE_PROBE, pb.PHASE_TRAIN}
_SOURCES = {pb.BATCH_SOURCE_UNSPECIFIED, pb.BATCH_SOURCE_FRESH, pb.BATCH_SOURCE_REPLAYED}


def check(directive: pb.Directive, number: int, config: pb.JobConfig) -> None:
    """Refuses what can't be carried out.

    Args:
        directive: the server's.
        number: that it should have.
        config: the job's, which says what can be measured, and whether weights can be averaged.

    Raises:
        ProtocolError: it is nonsense.
    """
    fault = _fault(directive, number) or _fault_of_measures(directive, config.measures)
    fault = fault or _fault_of_average(directive, has_average=config.has_average)
    fault = fault or _fault_of_round(directive, federated=ROUND_NORM in config.measures)
    _refuse(directive, fault or _fault_of_members(directive, max(config.members, 1)))


def check_in_place(directive: pb.Directive, run_state: RunState, *, rolled_back: bool) -> None:
    """Refuses what can't be carried out where the run is.

    Args:
        directive: the server's.
        run_state: of the run.
        rolled_back: whether the steps before are not to stay.

    Raises:
        ProtocolError: there is nothing to go back to, or nothing that should, or too many steps are asked for.
    """
    _refuse(directive, _misfit(directive, run_state, rolled_back))


def _refuse(directive: pb.Directive, fault: str) -> None:
    if fault:
        raise ProtocolError(f"server: its directive {directive.number} makes no sense: {fault}", "INTERNAL")


def _misfit(directive: pb.Directive, run_state: RunState, rolled_back: bool) -> str:
    if directive.restore and not run_state.held:
        return "it goes back to a snapshot, and none has been taken"
    if directive.restore and not rolled_back:
        return "it goes back to the snapshot, and the steps since then are to stay"
    spent = 0 if directive.taken_along else directive.n_steps
    if run_state.remaining is not None and spent > run_state.remaining:
        return f"it asks for {directive.n_steps} steps, {run_state.remaining} are left"
    return ""


def _fault(directive: pb.Directive, number: int) -> str:
    if directive.number != number:
        return f"number {directive.number} instead of {number}"
    if directive.phase == pb.PHASE_STOP:
        return _fault_of_stop(directive)
    if directive.phase not in _STEPPING:
        return f"phase {directive.phase}"
    if not 1 <= directive.n_steps <= MAX_STEPS:
        return f"{directive.n_steps} steps"
    if directive.stage < 0:
        return f"stage {directive.stage}"
    if directive.batches not in _SOURCES:
        return f"batches {directive.batches}"
    if not (committed(directive) or directive.restore or directive.snapshot):
        return "search steps that could not be rolled back: they begin at no snapshot"
    return _fault_of_lrs(directive) or _fault_of_events(directive) or _fault_of_limits(directive)


def _fault_of_stop(directive: pb.Directive) -> str:
    if directive.number == 1:
        return "a stop before the first step"
    return "a stop with steps" if directive.n_steps else ""


def _fault_of_lrs(directive: pb.Directive) -> str:
    try:
        profile = profile_from_proto(directive.profile)
    except ValueError as error:
        return str(error)
    if max(profile.length, profile.offset) > MAX_STEPS:
        return f"a profile of length {profile.length} at offset {profile.offset}"
    if profile.peak > MAX_LR:
        return f"LRs {profile.start_lr:g} and {profile.end_lr:g}, beyond single precision"
    lrs = [profile.lr(step) for step in (0, directive.n_steps // 2, directive.n_steps - 1)]
    has_numbers = profile.shape.way.has_numbers(profile.start_lr, profile.end_lr)
    if not (has_numbers and all(math.isfinite(lr) and lr >= 0 for lr in lrs)):
        return f"LRs {lrs}"
    return ""


def _fault_of_events(directive: pb.Directive) -> str:
    n_steps, every, steps = directive.n_steps, directive.report_every, directive.validate_at
    if len(steps) > MAX_ENTRIES:
        return f"{len(steps)} validations"
    if list(steps) != sorted(set(steps)) or (steps and not 0 <= steps[0] <= steps[-1] <= n_steps):
        return f"validations after steps {list(steps)}"
    # What is left of a directive keeps the parts of the whole.
    if not 0 <= every <= max(n_steps + directive.profile.offset, SMALLEST_PART):
        return f"report_every {every} of {n_steps} steps"
    if every and not committed(directive):
        return f"report_every {every}: search steps are reported at their end"
    if every and n_steps > every * MAX_PARTS:
        return f"report_every {every}: {n_steps} steps have too many parts"
    if min(every or n_steps, n_steps) * (1 + len(directive.measures)) > MAX_LOSSES:
        return f"report_every {every}: {n_steps} steps have too many losses for a report"
    return ""


def _fault_of_limits(directive: pb.Directive) -> str:
    limit = directive.give_up_above
    if directive.HasField("give_up_above") and (math.isnan(limit) or limit < -MAX_LR):
        return f"give_up_above {limit}: no loss is below it"
    if len(directive.promise) > MAX_ENTRIES:
        return f"a promise with {len(directive.promise)} bars"
    bars = [bar.from_step for bar in directive.promise]
    in_order = bars == sorted(bars) and (not bars or 0 <= bars[0] <= bars[-1] <= MAX_STEPS)
    if not in_order or any(math.isnan(bar.loss) or math.isnan(bar.validation) for bar in directive.promise):
        return f"a promise with bars from steps {bars}, or with one that is no number"
    return ""


def _fault_of_measures(directive: pb.Directive, measures: Collection[str]) -> str:
    names = list(directive.measures)
    if len(set(names)) < len(names) or not set(names) <= set(measures):
        return f"it asks to measure {[name[:40] for name in names[:MOST_NAMED]]}, of {list(measures)}"
    return _fault_of_warnings(directive)


def _fault_of_warnings(directive: pb.Directive) -> str:
    if len(directive.warnings) > MAX_WARNINGS:
        return f"{len(directive.warnings)} warnings"
    if directive.warnings and (directive.phase != pb.PHASE_PROBE or directive.apart):
        return "warnings for other steps than those of a probe that is not apart"
    try:
        warned = {warning_from_proto(warning).measure for warning in directive.warnings}
    except ValueError as error:
        return str(error)
    if missing := warned - set(directive.measures):
        return f"a warning by {min(missing)[:40]}, which it does not ask to measure"
    return ""


def _fault_of_members(directive: pb.Directive, members: int) -> str:
    others = directive.alongside
    if 1 + len(others) > members or (directive.apart and members == 1):
        return f"{1 + len(others)} probes, each on a replica, for {members} members"
    if (others or directive.taken_along) and not directive.apart:
        return "probes at the same time on one replica"
    if directive.apart and (directive.phase != pb.PHASE_PROBE or directive.validate_at or directive.measures):
        return "members have a probe, and no validation and no measure that are alike"
    for other in others:
        alike = (other.phase, other.n_steps, other.batches, other.apart, len(other.alongside))
        if alike != (directive.phase, directive.n_steps, directive.batches, True, 0):
            return "what it has tried at the same time is no probe like another"
        if fault := _fault_of_lrs(other) or _fault_of_limits(other):
            return f"at the same time, {fault}"
    return ""


def _fault_of_round(directive: pb.Directive, *, federated: bool) -> str:
    if not directive.HasField("round"):
        return ""
    if not federated:
        return "a round of a federation, of which this client is none"
    if not committed(directive):
        return "a round of a federation that is rolled back"
    weights = (directive.round.factor, directive.round.momentum)
    return "" if all(math.isfinite(each) for each in weights) else f"a round that is taken on by {weights}"


def _fault_of_average(directive: pb.Directive, *, has_average: bool) -> str:
    average = directive.average
    if not directive.HasField("average"):
        return ""
    if not has_average:
        return "an average of the weights, which this client can't keep"
    if not committed(directive):
        return "an average of weights that are rolled back"
    if not (math.isfinite(average.memory_steps) and average.memory_steps >= 1):
        return f"an average with a memory of {average.memory_steps:g} steps"
    if not 1 <= average.every <= MAX_STEPS:
        return f"an average that is brought up to date every {average.every} steps"
    return ""
