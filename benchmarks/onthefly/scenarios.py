"""What happens to runs on the way, and who runs through it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.onthefly.shapes import SCHEDULES
from benchmarks.onthefly.workloads import ENLARGED, PLAIN, SHIFTED, UNFROZEN, ChangingWorkload

_SCHEDULES = tuple(SCHEDULES)


@dataclass(frozen=True)
class Scenario:
    """Something that happens to runs, and who is compared.

    Attributes:
        name: Its key.
        what: What happens, in a sentence.
        workloads: What is trained.
        contestants: Who trains it, in the order of the plots.
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
    return Scenario(f"open-ended, {name}", what, PLAIN, ("linear", "infinite", "wsd"), "linear", share)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "shift-known",
        "The data change at half time, and the tuner is told.",
        SHIFTED,
        ("oracle", *_SCHEDULES),
    ),
    Scenario(
        "shift-unknown",
        "The data change at half time, and nobody says so.",
        SHIFTED,
        ("oracle", *_SCHEDULES),
    ),
    Scenario(
        "batch",
        "Batches are eight times as large from half time on.",
        ENLARGED,
        ("oracle", *_SCHEDULES),
    ),
    Scenario(
        "extend-end",
        "A run that was planned for half of the steps is over, and is extended by as many.",
        PLAIN,
        ("oracle, extended at the end", *_SCHEDULES),
        reference="oracle, extended at the end",
    ),
    Scenario(
        "extend-middle",
        "A run that was planned for half of the steps is extended to all of them at a quarter of them.",
        PLAIN,
        ("oracle, extended in the middle", *_SCHEDULES),
        reference="oracle, extended in the middle",
    ),
    Scenario(
        "unfreeze",
        "The backbone of a pretrained model is frozen up to half time.",
        UNFROZEN,
        ("oracle", *_SCHEDULES),
    ),
    _open_ended("a quarter", "a quarter of the steps", 0.25),
    _open_ended("half", "half of the steps", 0.5),
    _open_ended("all", "the last step", 1.0),
)

_QUICK = {"mlp", "mlp, rotated", "mlp, larger batches", "finetune, frozen, unfrozen"}
QUICK_SCENARIOS = tuple(
    replace(scenario, workloads=tuple(workload for workload in scenario.workloads if workload.name in _QUICK))
    for scenario in SCENARIOS
)
