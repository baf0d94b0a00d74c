"""The constants of policy `refined`, as options: those of `budget`, and a few more."""

from __future__ import annotations

from typing import Annotated

import pydantic

from tuner_server.core.laws.optimizer_kind import OptimizerKind
from tuner_server.core.policies.budget_options import BudgetOptions

Part = Annotated[float, pydantic.Field(gt=0, lt=1)]


class RefinedOptions(BudgetOptions):
    """The constants of the method."""

    refine_at: Annotated[tuple[Part, ...], pydantic.Field(max_length=10)] = (0.3, 0.6)
    """Parts of the committed steps after which the rest of the decay is refined."""
    optimizer: OptimizerKind | None = None
    """What kind the optimizer is of, which says what norms count; None: what the client can measure says it."""

    @pydantic.field_validator("refine_at")
    @classmethod
    def _ascending(cls, parts: tuple[float, ...]) -> tuple[float, ...]:
        if list(parts) != sorted(set(parts)):
            raise ValueError("parts of the committed steps, ascending, as (0.3, 0.6)")
        return parts
