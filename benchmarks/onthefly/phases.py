"""Training in two phases, before and after a change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.onthefly.workloads import ChangingWorkload
from benchmarks.quality.lr_rules import ShapedLr
from benchmarks.quality.training import Curve, train

_KEPT = 2
"""One validation of so many is kept, to keep the file of finished runs small."""


def change_step(n_steps: int) -> int:
    """The number of optimizer steps up to the change."""
    return n_steps // 2


@dataclass(frozen=True)
class _Later:
    """An LR rule from step `start` on."""

    rule: ShapedLr
    start: int

    def lr(self, step: int) -> float:
        return self.rule.lr(self.start + step)

    def observe(self, val_loss: float) -> None:
        self.rule.observe(val_loss)


def train_through(workload: ChangingWorkload, rule: ShapedLr, seed: int) -> Curve:
    """Trains a fresh run of `workload` under one rule, through the change if there is one."""
    session = workload.before.build(seed)
    if workload.change is None:
        return train(session, rule.n_steps, rule)
    n_first = change_step(rule.n_steps)
    first = train(session, n_first, rule)
    workload.go_on(session)
    return continued(first, n_first, lambda: train(session, rule.n_steps - n_first, _Later(rule, n_first)))


def continued(first: Curve, n_first: int, go_on: Callable[[], Curve]) -> Curve:
    """The curve of a run that was at `first` after `n_first` steps and goes on, unless it diverged."""
    if first.diverged:
        return first
    second = go_on()
    return replace(
        second,
        val_steps=first.val_steps + [n_first + step for step in second.val_steps],
        val_losses=first.val_losses + second.val_losses,
        train_losses=first.train_losses + second.train_losses,
        wall_s=first.wall_s + second.wall_s,
    )


def thinned(curve: Curve) -> Curve:
    """A curve with fewer validations and digits, and without training losses."""
    last_first = slice((len(curve.val_steps) - 1) % _KEPT, None, _KEPT)
    return replace(
        curve,
        val_steps=curve.val_steps[last_first],
        val_losses=[float(f"{loss:.5g}") for loss in curve.val_losses[last_first]],
        lrs=[float(f"{lr:.5g}") for lr in curve.lrs[last_first]],
        train_losses=[],
        wall_s=round(curve.wall_s, 2),
    )


def without_course(curve: Curve) -> Curve:
    """A curve of which only the end is known."""
    return replace(curve, val_steps=[], val_losses=[], train_losses=[], lrs=[], wall_s=round(curve.wall_s, 2))
