"""Why a stage has its LR, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lrpilot.wire.profile import Shape

from tuner_server.core.config import JobConfig
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Candidate, Decision, Directive, Outcome, Phase, PlanChange
from tuner_server.core.stages.committed import too_few
from tuner_server.core.stages.plan_change import because
from tuner_server.history.stage import Stage
from tuner_server.history.words import lr_way
from tuner_server.history.words.changes import sentence
from tuner_server.history.words.method import Correction, correction
from tuner_server.history.words.numbers import count, number, steps, told_apart, with_error
from tuner_server.history.words.setback import setback
from tuner_server.history.words.stopping import stopping
from tuner_server.history.words.unsought import unsought


def why(stage: Stage, config: JobConfig) -> str:
    """Why a stage of such a job has its LR."""
    said = _why(stage, config)
    if stage.change is not None:
        said = f"{sentence(stage.change)} {said}"
    return f"{said} It was undone, and its steps are rolled back." if stage.undone_annealing else said


def _why(stage: Stage, config: JobConfig) -> str:
    if stage.replaced:
        return (
            f"The client could not reach the server. It trained on by itself for {steps(stage.committed_steps)}, "
            f"at LR {number(stage.lr)}{_annealed(stage, config)}."
            if stage.spans
            else "The client could not reach the server, and went on by itself."
        )
    if stage.directive is None:
        return _so_far(stage)
    if not stage.candidates:
        return _unsearched(stage, config)
    sentences = [_tried(stage), _committed(stage, config), _runner_up(stage), _diverged(stage), _warnings(stage)]
    return " ".join(filter(None, [*sentences, _expected(stage), _forecast_tested(stage)]))


def why_restarts(restarts: Sequence[Stage]) -> str:
    """Why there were several in a row, none of which came to an end."""
    return (
        f"{count(len(restarts))} times the committed steps diverged once more. Each time they were rolled back, and "
        "began anew at a lower LR."
    )


def actual_end(stage: Stage) -> float | None:
    """What a stage's forecasts were about, the loss at its end; None: there were none, or it has not ended well."""
    if not _complete(stage) or not any(candidate.forecast_sd for candidate in stage.candidates):
        return None
    return stage.end_validation if stage.validated else stage.end_loss


def bounded(candidate: Candidate) -> bool:
    """Whether its forecast is where a bound stopped a curve that fell further."""
    forecast, raw = candidate.forecast, candidate.raw_forecast
    return forecast is not None and raw is not None and raw < forecast


def _so_far(stage: Stage) -> str:
    judged = [probe for probe in stage.probes if probe.candidate is not None]
    if not judged:
        if stage.probes[-1].directive.phase is Phase.RANGE_TEST:
            return "The search has begun with a range test: which LRs train at all?"
        return f"The search has begun with LR {number(stage.probes[0].lr)}."
    best = stage.best
    lead = (
        f"So far LR {number(best.lr)} leads, with {stage.quantity} {_judged(stage, best)}."
        if best
        else "None has trained yet."
    )
    return f"{_probes(judged)} judged. {lead}"


def _judged(stage: Stage, candidate: Candidate) -> str:
    """The forecast of a candidate, as people read it; a dash where it has none."""
    return number(None if candidate.forecast is None else stage.shown(candidate.forecast))


def _annealed(stage: Stage, config: JobConfig) -> str:
    """Where the LR of a client by itself goes: down to the end of the run, or nowhere if no end is known."""
    endless = config.total_steps is None and not lr_way.falls(stage.spans[0].profile)
    return "" if endless else " and falling"


def _unsearched(stage: Stage, config: JobConfig) -> str:
    directive = stage.directive
    assert directive is not None
    n_steps = steps(directive.n_steps)
    if directive.phase is Phase.WARM_UP:
        linear = directive.profile is not None and directive.profile.shape == Shape.LINEAR
        return f"A {'linear ' if linear else ''}warm-up to LR {number(stage.lr)} over {n_steps}."
    if stage.retreats_from is not None:
        return setback(stage, stage.retreats_from)
    if stage.unrepeatable and stage.probes:
        return (
            "The search ended here, and no probe tells anything: a rollback was not complete. What was set counts, LR "
            f"{number(stage.lr)}, for {n_steps}. The client says: {stage.unrepeatable}"
        )
    if stage.change is not None:
        return _replanned(stage, directive, stage.change)
    if stage.unrepeatable:
        return f"A rollback was not complete before, so there was no search, and {n_steps} have LR {number(stage.lr)}."
    if not too_few(directive):
        return unsought(stage)
    lr = "the LR that was set" if stage.lr == config.base_lr else f"LR {number(stage.lr)}"
    if stage.decision is not None and stage.decision.lowered_by is not None:
        lr = "an LR that is well below those that failed"
    if stage.rejoins:
        return f"The client was back, with {n_steps} left: too few for a search, so it has {lr}."
    return f"{n_steps} are too few for a search, so they have {lr}."


def _replanned(stage: Stage, directive: Directive, change: PlanChange) -> str:
    """What a policy made of a change without a search: its reason begins with the change, which was told."""
    reason = directive.reason if stage.decision is None else stage.decision.reason
    reason = reason.removeprefix(because(change)).removeprefix(": ")
    words = f"LR {number(stage.lr)} was committed for {steps(stage.granted_steps)}"
    words = f"{words}: {reason}." if reason else f"{words}."
    evidence = None if stage.decision is None else stage.decision.stopping
    return words if evidence is None else f"{words} {stopping(evidence, of_metric=stage.maximises)}"


def _probes(probes: Sequence[object]) -> str:
    """`1 probe`, `3 probes`."""
    return "1 probe" if len(probes) == 1 else f"{len(probes)} probes"


def _tried(stage: Stage) -> str:
    lrs, best, second = [candidate.lr for candidate in stage.candidates], stage.best, stage.second
    words = f"{_probes(lrs)} tried LRs from {number(min(lrs))} to {number(max(lrs))}."
    if best is None or best.forecast is None:
        return words
    shown, best_of = stage.shown(best.forecast), "the highest metric" if stage.of_metric else "the lowest loss"
    loss = number(shown) if second is None else told_apart(shown, stage.shown(second.loss))[0]
    if bounded(best):
        beyond = "rose above" if stage.of_metric else "fell below"
        return f"{words} LR {number(best.lr)} forecast {best_of}: its curve {beyond} {loss}, their bound."
    verb = "reached" if best.measured else "forecast"
    return f"{words} LR {number(best.lr)} {verb} {best_of}, {loss}."


def _committed(stage: Stage, config: JobConfig) -> str:
    """What became of the best LR: a decay over many more steps than a probe has wants a lower one."""
    decision, best = stage.decision, stage.best
    assert decision is not None
    if best is None:
        lowest = min(candidate.lr for candidate in stage.candidates)
        where = "the lowest that was tried" if same_lr(decision.lr, lowest) else "below what was tried"
        if decision.lr > lowest and not same_lr(decision.lr, lowest):
            return f"All diverged. {_by_its_reason(decision)}"
        return f"All diverged, so LR {number(decision.lr)}, {where}, is the safe choice."
    found = correction(stage, config)
    if found is not None:
        return _corrected(stage, decision, found)
    if same_lr(decision.lr, best.lr):
        return ""
    if decision.optimum is None or not same_lr(decision.lr, decision.optimum):
        # The policy, or the version of it that decided, doesn't tell in figures how it came there.
        return _by_its_reason(decision)
    expected = "the metric is expected to be highest" if stage.of_metric else "the loss is expected to be lowest"
    return f"LR {number(decision.lr)} was committed; {expected} there."


def _by_its_reason(decision: Decision) -> str:
    return f"LR {number(decision.lr)} was committed: {decision.reason}."


def _corrected(stage: Stage, decision: Decision, found: Correction) -> str:
    """The way from the best LR of the probes to the one that was committed."""
    assert stage.directive is not None
    lr, optimum, over = number(decision.lr), number(found.optimum), f"best over {steps(found.probe_steps)}"
    words = f"LR {optimum} was {over}"
    if not same_lr(found.factor, 1.0):
        goes_on = stage.directive.profile is not None and lr_way.hardly_falls(stage.directive.profile)
        onward = "what is to come" if goes_on else f"the decay over {steps(stage.directive.n_steps)}"
        other = "lower" if found.factor < 1 else "higher"
        words = (
            f"A longer run wants a {other} LR: {optimum} ({over}) times {found.factor:.2g} for {onward} is "
            f"{number(found.product)}"
        )
    if found.drawn_to is not None:
        lowered = ", and lowered further as steps at higher LRs had been rolled back" if found.lowered else ""
        return f"{words}. Drawn towards the {number(found.drawn_to)} that was set{lowered}, it became {lr}."
    if found.lowered:
        return f"{words}. As steps at higher LRs had been rolled back, it was lowered further, to {lr}."
    return f"{words}. {_by_its_reason(decision)}" if found.moved else f"{words}."


def _expected(stage: Stage) -> str:
    """What the run is held to: the end of a probe, as the search expects it at the best LR."""
    decision = stage.decision
    if decision is None or decision.forecast is None:
        return ""
    loss, sd = stage.shown(decision.forecast), decision.forecast_sd
    expected = number(loss) if sd is None else with_error(loss, sd)
    return f"The search expects a probe at the best LR to end at {expected}; the run, which is longer, is held to that."


def _runner_up(stage: Stage) -> str:
    best, second = stage.best, stage.second
    if best is None or best.forecast is None or second is None or second.forecast is None:
        return ""
    if best.forecast == second.forecast:
        return f"Next came {number(second.lr)} with {'the same bound' if bounded(second) else 'the same'}."
    return (
        f"Next came {number(second.lr)} with {told_apart(stage.shown(best.forecast), stage.shown(second.forecast))[1]}."
    )


def _diverged(stage: Stage) -> str:
    diverged = [candidate for candidate in stage.candidates if candidate.diverged]
    warned = {probe.directive.number for probe in stage.tried if probe.warned}
    lrs = [number(lr) for lr in sorted(c.lr for c in diverged if c.directive_number not in warned)]
    if not lrs or len(diverged) == len(stage.candidates):
        return ""
    return f"LR {lrs[0]} diverged." if len(lrs) == 1 else f"LRs {', '.join(lrs[:-1])} and {lrs[-1]} diverged."


def _warnings(stage: Stage) -> str:
    """What early warnings showed in the probes that had some."""
    sentences = []
    for probe in stage.tried:
        if probe.span is not None and probe.span.note and not probe.unrepeatable:
            of = f"The probe of LR {number(probe.lr)}"
            sentences.append(f"{of} {'ended early' if probe.warned else 'came to its end'}: {probe.span.note}.")
    return " ".join(sentences)


def _forecast_tested(stage: Stage) -> str:
    """What the winner's forecast was worth; a probe's own end is a measurement, and forecasts nothing."""
    best, actual = stage.best, actual_end(stage)
    if best is None or best.forecast is None or not best.forecast_sd or actual is None:
        return ""
    forecast, actual = stage.shown(best.forecast), stage.shown(actual)
    off = (actual - forecast) / best.forecast_sd
    side = "above" if off > 0 else "below"
    return (
        f"The forecast for its end was {with_error(forecast, best.forecast_sd)}; "
        f"the actual {stage.quantity} was {number(actual)}, {abs(off):.1f} standard errors {side}."
    )


def _complete(stage: Stage) -> bool:
    return bool(stage.spans) and stage.spans[-1].outcome is Outcome.COMPLETED and stage.spans[-1].kept
