"""What happens to runs on the way, and who runs through it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.onthefly.workloads import ENLARGED, PLAIN, SHIFTED, UNFROZEN, ChangingWorkload

_OTHERS = ("wsd", "sgdr", "infinite")
AT_THE_END = "extended at the end"
IN_THE_MIDDLE = "extended in the middle"


@dataclass(frozen=True)
class Scenario:
    """Something that happens to runs, and who is compared.

    Attributes:
        name: Its key.
        what: What happens, in a sentence.
        workloads: What is trained.
        contestants: Who trains it; the first ones are run first.
        reference: The contestant that all are compared with; the best of its sweep.
        share: The length of its runs, as a share of the length that is asked for.
    """

    name: str
    what: str
    workloads: tuple[ChangingWorkload, ...]
    contestants: tuple[str, ...]
    reference: str = "oracle"
    share: float = 1.0

    def steps(self, n_steps: int) -> int:
        """The optimizer steps of a run."""
        return round(self.share * n_steps)


def _open_ended(name: str, when: str, share: float) -> Scenario:
    what = f"The run has no planned end; it is annealed so as to be judged at {when}, against decays of that length."
    return Scenario(f"open-ended, {name}", what, PLAIN, ("linear", "open_ended", "wsd", "infinite"), "linear", share)


_CHANGED = ("oracle", "linear", "budget, told", "budget, not told", "budget, fresh", *_OTHERS)
SCENARIOS: tuple[Scenario, ...] = (
    Scenario("shift-known", "The data change at half time, and the tuner is told.", SHIFTED, _CHANGED),
    Scenario(
        "shift-unknown",
        "The data change at half time, and nobody says so.",
        SHIFTED,
        ("oracle", "linear", "budget, not told", *_OTHERS),
    ),
    Scenario("batch", "Batches are eight times as large from half time on.", ENLARGED, _CHANGED),
    Scenario(
        "extend-end",
        "A run that was planned for half of the steps is over, and is extended by as many.",
        PLAIN,
        (f"oracle, {AT_THE_END}", "linear", f"budget, {AT_THE_END}", "budget, fresh at the end", *_OTHERS),
        reference=f"oracle, {AT_THE_END}",
    ),
    Scenario(
        "extend-middle",
        "A run that was planned for half of the steps is extended to all of them after a quarter of them.",
        PLAIN,
        (f"oracle, {IN_THE_MIDDLE}", "linear", f"budget, {IN_THE_MIDDLE}", "budget, fresh in the middle", *_OTHERS),
        reference=f"oracle, {IN_THE_MIDDLE}",
    ),
    Scenario("unfreeze", "The backbone of a pretrained model is frozen up to half time.", UNFROZEN, _CHANGED),
    _open_ended("a quarter", "a quarter of the steps", 0.25),
    _open_ended("half", "half of the steps", 0.5),
    _open_ended("all", "the last step", 1.0),
)

_QUICK = {"mlp", "mlp, rotated", "mlp, larger batches", "finetune, unfrozen"}
QUICK_SCENARIOS = tuple(
    replace(scenario, workloads=tuple(workload for workload in scenario.workloads if workload.name in _QUICK))
    for scenario in SCENARIOS
)
