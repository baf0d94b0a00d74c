"""The early warnings that a policy may have its probes end by, with their levels.

The clients look for them (`lrpilot.wire.early_warning`). The signs follow from Wortsman et al. 2023 (arXiv 2309.14322);
that they are looked for in the course of a probe, and at which levels, is ours. The levels are the lowest round ones
that ended no sound probe of the benchmark (docs/methods/stability.md). A probe that ends by one is a censored
observation, as one that diverged.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

from lrpilot.wire.early_warning import EarlyWarning, WarningRule

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError

ROW = 5
"""Steps in a row: as many as losses that make a divergence."""
NORM_RISE = 30.0
"""The factor by which the gradient's norm lies above its median; sound probes had 10."""
LARGEST_UPDATE = 1.0
"""Where an update is a larger part of a tensor, its weights are replaced, not trained; sound probes had 0.3."""
LARGEST_LOGIT = 1e5
"""The models of the paper that were on their way above 1e4 diverged; sound probes were."""
SMALLEST_OVER_EPS = 10.0
"""Below it Adam's eps damps the updates."""


class EarlyWarningName(enum.StrEnum):
    """The warnings, by the measure that each looks at."""

    GRADIENT_NORM = "gradient_norm"
    UPDATE_RATIO = "update_ratio"
    OUTPUT_LOGIT = "output_logit"
    GRADIENT_OVER_EPS = "gradient_over_eps"
    """It ends no probe, and is told only."""


_WARNINGS = {
    EarlyWarningName.GRADIENT_NORM: EarlyWarning("gradient_norm", WarningRule.RISE, NORM_RISE, ROW),
    EarlyWarningName.UPDATE_RATIO: EarlyWarning("update_ratio", WarningRule.ABOVE, LARGEST_UPDATE, ROW),
    EarlyWarningName.OUTPUT_LOGIT: EarlyWarning("output_logit", WarningRule.GROWTH, LARGEST_LOGIT, ROW),
    EarlyWarningName.GRADIENT_OVER_EPS: EarlyWarning(
        "gradient_over_eps", WarningRule.BELOW, SMALLEST_OVER_EPS, ROW, ends=False
    ),
}


def early_warnings(names: Collection[EarlyWarningName]) -> tuple[EarlyWarning, ...]:
    """The warnings of such names, each once, in a fixed order."""
    return tuple(warning for name, warning in _WARNINGS.items() if name in names)


def check(names: Collection[EarlyWarningName], config: JobConfig) -> None:
    """Refuses warnings that a job can't have. Raises: InvalidInputError: its client can't measure what they look at."""
    field = "policy_options.early_warnings"
    if names and config.members > 1:
        raise InvalidInputError.of(field, "probes on replicas by themselves have no measures; leave it empty")
    missing = [warning.measure for warning in early_warnings(names) if warning.measure not in config.measures]
    if missing:
        able = ", ".join(config.measures) or "nothing"
        raise InvalidInputError.of(field, f"{', '.join(missing)}; the client can measure {able}")
