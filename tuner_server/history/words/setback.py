"""Why committed steps were rolled back, with the evidence, and what came next: in sentences."""

from __future__ import annotations

from tuner_server.history.stage import Stage, Undoing
from tuner_server.history.words.numbers import count, number, share, steps, told_apart


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
    sign = _sign(stage, undoing)
    loss = number(sign * undoing.loss)
    if undoing.bar is not None:
        loss = told_apart(sign * undoing.loss, sign * undoing.bar)[0]
    what = f"its steps {count(undoing.first_step)} to {count(undoing.last_step)} had a median loss of {loss}"
    if undoing.validated:
        way = "high" if sign > 0 else "low"
        what = f"after {steps(undoing.last_step)} a second validation in a row was too {way}: {loss}"
    onward = f"The run was rolled back, and {number(lr)} took the {n_steps} that were left."
    if lr is not None and undoing.lr is not None and lr > undoing.lr:
        onward = (
            "It rose as far as it had at a higher LR, so the LR is not the cause. The run was rolled back, and that "
            f"LR, {number(lr)}, took the {n_steps} that were left."
        )
    sentences = (f"LR {number(undoing.lr)} was committed, and {what}.", _promised(stage, undoing), onward)
    return " ".join(filter(None, sentences))


def _sign(stage: Stage, undoing: Undoing) -> float:
    """-1 where what was above its bar is minus a metric, so that people read the metric; else 1."""
    return -1.0 if undoing.validated and stage.maximises else 1.0


def _promised(stage: Stage, undoing: Undoing) -> str:
    """What the steps that fell short had been held to; empty if that is not known."""
    if undoing.bar is None or undoing.loss is None:
        return ""
    sign = _sign(stage, undoing)
    bar = told_apart(sign * undoing.loss, sign * undoing.bar)[1]
    below = f"a loss below {bar}" if sign > 0 else f"a metric above {bar}"
    known = None if stage.decision is None else stage.decision.setback
    if known is None or known.start_loss is None or known.gain is None or known.validated != undoing.validated:
        return f"By then {below} was promised."
    if undoing.reached is not None:
        low = told_apart(undoing.reached, undoing.loss)[0]
        lost = f"{share(undoing.loss - undoing.reached, known.gain)} of what"
        if undoing.loss >= known.start_loss:
            lost = "all that"
        return f"Before that it had come down to {low}, so {lost} it had gained was lost again."
    if known.start_loss <= undoing.bar:  # a bar has a margin for noise, which may be large
        return f"By then {below} was promised."
    start, end = told_apart(sign * known.start_loss, sign * (known.start_loss - known.gain))
    part = share(known.start_loss - undoing.bar, known.gain)
    return f"The best probe had come from {start} to {end}, so at least {part} of that was promised by then: {below}."
