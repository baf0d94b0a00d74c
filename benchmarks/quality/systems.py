"""The systems that people choose an LR or a schedule with: what each asks for and costs, and how it is tried here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.quality.plan import OURS, OURS_TO_ZERO, REFERENCE


class Lr(StrEnum):
    """Which LR its user has to know."""

    TUNED = "tuned"
    FIRST = "a first one"
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


_LINEAR = "Defazio et al. 2023, arXiv 2310.07831"
_OURS = "this project"

SYSTEMS: tuple[System, ...] = (
    System(OURS, _OURS, Lr.RANGE, True, "2", '`policy="budget"`, the default'),
    System(OURS_TO_ZERO, _OURS, Lr.RANGE, True, "1", '`policy_options={"ending": "zero"}`'),
    System("autolrs", "Jin et al. 2021, arXiv 2105.10762", Lr.RANGE, True, "1", '`policy="autolrs"`'),
    System(REFERENCE, _LINEAR, Lr.TUNED, True, "0", '`policy_options={"decay": "linear"}`, the default'),
    System("linear, averaged", "Ajroldi et al. 2025, arXiv 2502.06761", Lr.TUNED, True, "1", "how `budget` ends"),
    System("linear, user's LR", _LINEAR, Lr.FIRST, True, "0", "a run below 500 steps"),
    System("cosine", "Loshchilov & Hutter 2017, arXiv 1608.03983", Lr.TUNED, True, "0", "`decay`"),
    System("rex", "Chen et al. 2021, arXiv 2107.04197", Lr.TUNED, True, "0", "`decay`"),
    System("wsd", "Hu et al. 2024, arXiv 2404.06395", Lr.TUNED, True, "0", "`decay`"),
    System("wsd, 1 - sqrt", "Hägele et al. 2024, arXiv 2405.18392", Lr.TUNED, True, "0", "`decay`"),
    System("step", "He et al. 2016, arXiv 1512.03385", Lr.TUNED, True, "0", "`decay`"),
    System("one_cycle", "Smith & Topin 2018, arXiv 1708.07120", Lr.TUNED, True, "0", "PyTorch's `OneCycleLR`"),
    System("plateau", "`torch.optim.lr_scheduler`", Lr.TUNED, False, "0", "PyTorch's own"),
    System("greedy_lr", "arXiv 2512.14527", Lr.FIRST, False, "0", "Transformers' own"),
    System("greedy_lr, no min_lr", "arXiv 2512.14527", Lr.FIRST, False, "0", "Transformers' own"),
    System("adalrs", "Dong et al. 2025, arXiv 2506.13274", Lr.FIRST, True, "1", "the benchmark's"),
    System("lr_finder", "Smith 2017, arXiv 1506.01186", Lr.RANGE, True, "1", "range test"),
    System("prodigy", "Mishchenko & Defazio 2024, arXiv 2306.06101", Lr.NONE, True, "2", "`prodigyopt`"),
    System("dadaptation", "Defazio & Mishchenko 2023, arXiv 2301.07733", Lr.NONE, True, "1 or 2", "`dadaptation`"),
    System("mechanic", "Cutkosky et al. 2023, arXiv 2306.00144", Lr.FIRST, True, "2", "`mechanic-pytorch`"),
    System("dog", "Ivgi et al. 2023, arXiv 2302.12022", Lr.NONE, False, "2", "`dog-optimizer`"),
    System("dowg", "Khaled et al. 2023, arXiv 2305.16284", Lr.NONE, False, "1", "`dowg`"),
    System("schedule_free", "Defazio et al. 2024, arXiv 2405.15682", Lr.TUNED, False, "0", "`schedulefree`"),
    System("schedule_free, our LR", "the same", Lr.RANGE, True, "1", "`tuner.search`"),
)
