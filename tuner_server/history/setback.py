"""Why committed steps were rolled back, with the evidence, and what came next: in sentences."""

from __future__ import annotations

from tuner_server.history.numbers import count, number, share, steps, told_apart
from tuner_server.history.stage import Stage, Undoing


def setback(stage: Stage, undoing: Undoing) -> str:
    """What is said of a stage that begins after `undoing`, without another search."""
    assert stage.directive is not None
    n_steps, lr = steps(stage.directive.n_steps), next(iter(stage.lrs), None)
    if undoing.loss is None:
        lower = lr is not None and undoing.lr is not None and lr < undoing.lr
        next_lr = f"a lower LR, {number(lr)}," if lower else f"LR {number(lr)}"
        return (
            f"LR {number(undoing.lr)} had diverged. Its steps were rolled back, and {next_lr} took the {n_steps} that "
            "were left."
        )
    loss = number(undoing.loss) if undoing.bar is None else told_apart(undoing.loss, undoing.bar)[0]
    what = f"its steps {count(undoing.first_step)} to {count(undoing.last_step)} had a median loss of {loss}"
    if undoing.validated:
        what = f"after {steps(undoing.last_step)} a second validation in a row was too high: {loss}"
    sentences = (
        f"LR {number(undoing.lr)} was committed, and {what}.",
        _promised(stage, undoing),
        f"The run was rolled back, and {number(lr)} took the {n_steps} that were left.",
    )
    return " ".join(filter(None, sentences))


def _promised(stage: Stage, undoing: Undoing) -> str:
    """What the steps that fell short had been held to; empty if that is not known."""
    if undoing.bar is None or undoing.loss is None:
        return ""
    below = f"a loss below {told_apart(undoing.loss, undoing.bar)[1]}"
    known = None if stage.decision is None else stage.decision.setback
    if known is None or known.start_loss is None or known.gain is None or known.validated != undoing.validated:
        return f"By then {below} was promised."
    if known.start_loss <= undoing.bar:  # a bar has a margin for noise, which may be large
        return f"By then {below} was promised."
    start, end = told_apart(known.start_loss, known.start_loss - known.gain)
    part = share(known.start_loss - undoing.bar, known.gain)
    return f"The best probe had come from {start} to {end}, so at least {part} of that was promised by then: {below}."
