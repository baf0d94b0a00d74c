"""The systems that people choose an LR or a schedule with: what each asks for and costs, and how it is tried here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.quality.plan import OURS, OURS_TO_ZERO, REFERENCE


class Lr(StrEnum):
    """Which LR its user has to know."""

    TUNED = "tuned"
    GUESS = "a guess"
    RANGE = "a range"
    NONE = "none"


@dataclass(frozen=True)
class System:
    """A published system, or one of ours.

    Attributes:
        contestant: Its name in the benchmark.
        source: Who published it, and where.
        lr: The LR that it needs.
        knows_end: Whether it has to know the length of the run.
        copies: Copies of the weights that it keeps beside those of the model and of the optimizer that it wraps or
            replaces, a snapshot among them, in words.
        here: How it is tried on one's own loop with this project.
    """

    contestant: str
    source: str
    lr: Lr
    knows_end: bool
    copies: str
    here: str


def _decay(shape: str) -> str:
    """How a shape is asked for."""
    return f'`policy_options={{"decay": "{shape}"}}`'


def _module(name: str) -> str:
    """Where the benchmark has what no maintained package has."""
    return f"`benchmarks/quality/{name}.py`, no tuner"


_LINEAR = "Defazio et al. 2023, arXiv 2310.07831"
_GREEDY = "arXiv 2512.14527"
_SCHEDULE_FREE = "Defazio et al. 2024, arXiv 2405.15682"
_OURS = "this project"
_DADAPTATION = "`dadaptation`, no tuner"
_WSD_ROOT = _decay("wsd/one_minus_sqrt(0.2)")

SYSTEMS: tuple[System, ...] = (
    System(OURS, _OURS, Lr.RANGE, True, "2", '`policy="budget"`, the default'),
    System(OURS_TO_ZERO, _OURS, Lr.RANGE, True, "1", '`policy_options={"ending": "zero"}`'),
    System("autolrs", "Jin et al. 2021, arXiv 2105.10762", Lr.RANGE, True, "1", '`policy="autolrs"`'),
    System("budget, second job", _OURS, Lr.RANGE, True, "2", '`policy="budget", family="..."`'),
    System("refined, second job", _LINEAR, Lr.RANGE, True, "2", '`policy="refined", family="..."`'),
    System("hypergradient", "Baydin et al. 2018, arXiv 1703.04782", Lr.GUESS, True, "2", '`policy="hypergradient"`'),
    System(REFERENCE, _LINEAR, Lr.TUNED, True, "0", f"{_decay('linear')}, the default"),
    System("linear, averaged", "Ajroldi et al. 2025, arXiv 2502.06761", Lr.TUNED, True, "1", "how `budget` ends"),
    System("linear, user's LR", _LINEAR, Lr.GUESS, True, "0", "a run below 500 steps"),
    System("cosine", "Loshchilov & Hutter 2017, arXiv 1608.03983", Lr.TUNED, True, "0", _decay("cosine")),
    System("rex", "Chen et al. 2021, arXiv 2107.04197", Lr.TUNED, True, "0", _decay("rex")),
    System("wsd", "Hu et al. 2024, arXiv 2404.06395", Lr.TUNED, True, "0", _decay("wsd(0.2)")),
    System("wsd, 1 - sqrt", "Hägele et al. 2024, arXiv 2405.18392", Lr.TUNED, True, "0", _WSD_ROOT),
    System("step", "He et al. 2016, arXiv 1512.03385", Lr.TUNED, True, "0", _decay("step")),
    System("one_cycle", "Smith & Topin 2018, arXiv 1708.07120", Lr.TUNED, True, "0", _decay("one_cycle")),
    System("plateau", "PyTorch", Lr.TUNED, False, "0", "`torch.optim.lr_scheduler.ReduceLROnPlateau`, no tuner"),
    System("greedy_lr", _GREEDY, Lr.GUESS, False, "0", '`lr_scheduler_type="greedy"` of Transformers, no tuner'),
    System("greedy_lr, no min_lr", _GREEDY, Lr.GUESS, False, "0", "the same with `min_lr=0`"),
    System("adalrs", "Dong et al. 2025, arXiv 2506.13274", Lr.GUESS, True, "1", _module("adalrs")),
    System("lr_finder", "Smith 2017, arXiv 1506.01186", Lr.RANGE, True, "1", _module("lr_finder")),
    System("prodigy", "Mishchenko & Defazio 2024, arXiv 2306.06101", Lr.NONE, True, "2", "`prodigyopt`, no tuner"),
    System("dadaptation", "Defazio & Mishchenko 2023, arXiv 2301.07733", Lr.NONE, True, "1 or 2", _DADAPTATION),
    System("mechanic", "Cutkosky et al. 2023, arXiv 2306.00144", Lr.GUESS, True, "2", _module("mechanic")),
    System("dog", "Ivgi et al. 2023, arXiv 2302.12022", Lr.NONE, False, "2", _module("dog")),
    System("dowg", "Khaled et al. 2023, arXiv 2305.16284", Lr.NONE, False, "1", _module("dog")),
    System("schedule_free", _SCHEDULE_FREE, Lr.GUESS, False, "0", "`schedulefree`, no tuner"),
    System("schedule_free, our LR", _SCHEDULE_FREE, Lr.RANGE, True, "1", f"its optimizer, {_decay('constant')}"),
)
