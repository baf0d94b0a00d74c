"""How the contestants stand, over all seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tuner_server.demo.contestants import Contestant, Decayed, contestants
from tuner_server.demo.messages import Result


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """What one contestant came to.

    Attributes:
        name: of the contestant.
        contestant: on what terms it took part.
        results: one for each seed, in their order.
        behind: how far its loss is above that of the best contestant, as a part of the latter; from the means over the
            seeds of the logarithms, so that no seed weighs more than another.
    """

    name: str
    contestant: Contestant
    results: tuple[Result, ...]
    behind: float

    @property
    def steps(self) -> int:
        """Optimizer steps of one run, search included."""
        return self.results[0].committed_steps + self.results[0].search_steps

    @property
    def loss(self) -> float:
        """The geometric mean of the validation losses."""
        return math.exp(_log_loss(self.results))

    @property
    def accuracy(self) -> float:
        """The mean accuracy."""
        return math.fsum(result.validation_accuracy for result in self.results) / len(self.results)


def ranked(results: Sequence[Result]) -> list[Standing]:
    """The contestants that have results, in the order in which they ran; the best one is behind by 0."""
    by_name: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        by_name.setdefault(result.contestant, []).append(result)
    logs = {name: _log_loss(its) for name, its in by_name.items()}
    best = min(logs.values())
    return [
        Standing(name, contestant, tuple(by_name[name]), math.expm1(logs[name] - best))
        for name, contestant in contestants(with_autolrs=True).items()
        if name in by_name
    ]


def best_guess(standings: Sequence[Standing]) -> Standing:
    """The best of those that follow a line from a guess: what all of them together have brought."""
    return min((each for each in standings if isinstance(each.contestant, Decayed)), key=lambda each: each.loss)


def _log_loss(results: Sequence[Result]) -> float:
    """The mean logarithm of the losses; one that is no number counts as infinite."""
    losses = [result.validation_loss for result in results]
    if not all(math.isfinite(loss) for loss in losses):
        return math.inf
    return math.fsum(math.log(loss) for loss in losses) / len(losses)
