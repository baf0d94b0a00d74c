"""Whether a report can be true of the directive that it is on: what contradicts it is refused. Pure."""

from __future__ import annotations

import math

from lrpilot.wire.limits import MAX_VALIDATION_LOSS

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import Directive, Outcome, Phase, Report

_ENDS_BADLY = (Outcome.DIVERGED, Outcome.UNREPEATABLE)
"""Outcomes whose losses may be anything, and whose validations may be missing."""
LONGEST_S = 1e9
"""Seconds that the steps of a report may take, three decades: a job's sum stays a number that people can be told."""


def check_report(directive: Directive, report: Report, has_validation: bool) -> None:
    """Refuses a report that contradicts its directive. Raises: InvalidInputError."""
    _check_outcome(directive, report)
    _check_n_steps(directive, report)
    if report.outcome not in _ENDS_BADLY:
        _check_finite(report)
    _check_validations(directive, report, has_validation)
    _check_measures(directive, report)
    _check_ending(directive, report, has_validation)
    _check_note(report, warned=bool(directive.warnings))
    _check_wall_time(report)


def check_replacement(report: Report, remaining_steps: int | None) -> None:
    """Refuses an impossible report on steps that a client ran by itself. Raises: InvalidInputError."""
    replacement = report.replacement
    if replacement is None:
        raise InvalidInputError.of("report.replacement", "missing; a replaced report says what was done instead")
    if (replacement.profile is None) != (report.n_steps == 0):
        raise InvalidInputError.of("report.replacement.profile", "there is one where there are losses, and only there")
    run = report.n_steps + replacement.wasted_steps
    if remaining_steps is not None and run > remaining_steps:
        raise InvalidInputError.of("report.losses", f"{run} steps were run, but only {remaining_steps} were left")
    _check_finite(report)
    if report.validations:
        raise InvalidInputError.of("report.validations", "a replaced report has none")
    if report.measures:
        raise InvalidInputError.of("report.measures", "a replaced report has none")
    if report.ending is not None:
        raise InvalidInputError.of("report.ending", "a replaced report has none")
    _check_note(report, warned=False)
    _check_wall_time(report)


def _check_outcome(directive: Directive, report: Report) -> None:
    if report.replacement is not None:
        raise InvalidInputError.of("report.replacement", f"a {report.outcome} report has none; it did as it was told")
    if report.outcome is Outcome.PARTIAL and not directive.phase.committed:
        raise InvalidInputError.of("report.outcome", f"a {directive.phase} can't be reported in parts")
    if report.outcome is Outcome.UNREPEATABLE and directive.phase is not Phase.PROBE:
        raise InvalidInputError.of("report.outcome", f"a {directive.phase} is not compared with another; a probe is")
    if report.outcome is Outcome.REPLANNED and report.change is None:
        raise InvalidInputError.of("report.change", "missing; a replanned report says what has changed")
    if report.outcome is Outcome.REPLANNED and directive.phase.searches:
        raise InvalidInputError.of("report.outcome", f"a {directive.phase} goes on to its end; send the change then")
    if report.outcome is Outcome.FELL_SHORT and not directive.promise:
        raise InvalidInputError.of("report.outcome", "nothing was promised for this directive, so it can't fall short")


def _check_n_steps(directive: Directive, report: Report) -> None:
    whole = directive.n_steps
    fewest, most = {
        Outcome.COMPLETED: (whole, whole),
        Outcome.PARTIAL: (1, whole - 1),
        Outcome.DIVERGED: (1, whole),
        Outcome.FELL_SHORT: (1, whole),
        Outcome.UNREPEATABLE: (1, whole),
        Outcome.REPLANNED: (0, whole),
    }[report.outcome]
    if not fewest <= report.n_steps <= most:
        wanted = str(whole) if fewest == most else f"{fewest} to {most}"
        raise InvalidInputError.of(
            "report.losses",
            f"{report.n_steps} losses, but a {report.outcome} directive of {whole} steps has {wanted}",
        )


def _check_validations(directive: Directive, report: Report, has_validation: bool) -> None:
    ends_badly = report.outcome in _ENDS_BADLY
    due = [step for step in directive.validate_at if step <= report.n_steps]
    got = [validation.step for validation in report.validations]
    # A validation that failed before the first step says nothing against the steps.
    complete = set(due) - set(got) <= {0} or ends_badly or directive.phase.committed
    if sorted(set(got) & set(due)) != got or (has_validation and not complete):
        raise InvalidInputError.of(
            "report.validations", f"validated after steps {got}, but the directive asks for {due}"
        )
    for i, validation in enumerate(report.validations):
        if not (ends_badly or abs(validation.loss) <= MAX_VALIDATION_LOSS):
            raise InvalidInputError.of(
                f"report.validations[{i}].loss",
                f"{validation.loss}; a completed step's is finite, at most {MAX_VALIDATION_LOSS}",
            )


def _check_finite(report: Report) -> None:
    if not all(map(math.isfinite, report.losses)):
        bad = next(i for i, loss in enumerate(report.losses) if not math.isfinite(loss))
        raise InvalidInputError.of(
            f"report.losses[{bad}]", f"{report.losses[bad]}; a {report.outcome} report has finite losses"
        )


def _check_note(report: Report, *, warned: bool) -> None:
    if report.outcome is Outcome.UNREPEATABLE and not report.note.strip():
        raise InvalidInputError.of("report.note", "missing; an unrepeatable report says what was seen")
    if report.outcome is not Outcome.UNREPEATABLE and report.note and not warned:
        raise InvalidInputError.of("report.note", f"a {report.outcome} report has none, as nothing is warned of")


def _check_measures(directive: Directive, report: Report) -> None:
    for name, values in report.measures.items():
        if name not in directive.measures:
            asked = ", ".join(directive.measures) or "no measure"
            raise InvalidInputError.of("report.measures", f"{name}; directive {directive.number} asks for {asked}")
        if len(values) != report.n_steps:
            raise InvalidInputError.of(
                "report.measures", f"{name} has {len(values)} values for {report.n_steps} losses; one each is right"
            )


def _check_ending(directive: Directive, report: Report, has_validation: bool) -> None:
    ending = report.ending
    if ending is None:
        return
    if directive.average is None or report.outcome is not Outcome.COMPLETED:
        raise InvalidInputError.of(
            "report.ending", "there is one only where a directive with an average is completed; leave it out"
        )
    if ending.memory_steps != directive.average.memory_steps:
        raise InvalidInputError.of(
            "report.ending.memory_steps",
            f"{ending.memory_steps}, but directive {directive.number} has {directive.average.memory_steps}",
        )
    for field, loss in (("last", ending.last), ("average", ending.average)):
        if loss is not None and not (has_validation and abs(loss) <= MAX_VALIDATION_LOSS):
            wanted = f"finite, at most {MAX_VALIDATION_LOSS}" if has_validation else "left out, as the job has none"
            raise InvalidInputError.of(f"report.ending.{field}", f"{loss}; a validation loss is {wanted}")


def _check_wall_time(report: Report) -> None:
    if not 0 <= report.wall_time_s <= LONGEST_S:  # nor is NaN
        raise InvalidInputError.of("report.wall_time_s", f"{report.wall_time_s}; give 0 to {LONGEST_S:g} seconds")
