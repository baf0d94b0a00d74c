"""What is varied: options of policy `budget`, and the LR that its user had set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

HALF_DECADE = math.sqrt(10.0)
FAR_OFF = 1e15
"""A user's LR so many times the nominal one is out of reach of its prior, which so has no say."""

UsersLr = Callable[[float, float], float]
"""Gives the LR from the workload's nominal one and the best of its grid."""


def _nominal(nominal: float, best: float) -> float:
    return nominal


def _of_nominal(factor: float) -> UsersLr:
    return lambda nominal, best: nominal * factor


def _of_best(factor: float) -> UsersLr:
    return lambda nominal, best: best * factor


@dataclass(frozen=True)
class Variation:
    """Options, and a user's LR.

    Attributes:
        group: What is varied.
        title: To what.
        options: Those of the policy that are not at their defaults.
        users_lr: The LR that the user had set.
        takes_best: Whether that depends on the best LR of the grid.
    """

    group: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    users_lr: UsersLr = _nominal
    takes_best: bool = False


DEFAULT = Variation("probe_steps", "default")
VARIATIONS = (
    DEFAULT,
    *(Variation("probe_steps", f"{n}", {"probe_steps": n}) for n in (10, 16, 20, 25, 40, 65, 100)),
    *(
        Variation("length_exponent", f"{exponent:g}", {"length_exponent": exponent})
        for exponent in (0.0, 0.1, 0.15, 0.18, 0.2, 0.25)
    ),
    *(Variation("refinements", f"{n}", {"refinements": n}) for n in (1, 2, 3, 5)),
    Variation("user's LR", "nominal"),
    Variation("user's LR", "best of the grid", users_lr=_of_best(1.0), takes_best=True),
    Variation("user's LR", "best, x 3.16", users_lr=_of_best(HALF_DECADE), takes_best=True),
    Variation("user's LR", "best, / 3.16", users_lr=_of_best(1 / HALF_DECADE), takes_best=True),
    Variation("user's LR", "nominal, x 30", users_lr=_of_nominal(30.0)),
    Variation("user's LR", "nominal, / 30", users_lr=_of_nominal(1 / 30.0)),
    Variation("user's LR", "any, without the prior", users_lr=_of_nominal(FAR_OFF)),
)
