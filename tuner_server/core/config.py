"""The config of a job, as its client describes it."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pydantic

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import MAX_STEPS, Measures, Value

SMALLEST_LR, LARGEST_LR = 1e-30, 1e30
"""Limits of bounds: far outside anything that trains, and their products stay far inside the floats."""
MAX_MEMBERS = 1024
"""Replicas that a job may have: more than there are in any data-parallel run that has a search."""
MAX_FIRST_UPDATES = 32
"""Updates of which the size may be told, the last one after two thousand million."""
SMALLEST_UPDATE, LARGEST_UPDATE = 1e-30, 1e30
"""Limits of these sizes, in units of the LR: what is made of them stays far inside the floats."""
MAX_NAME = 200
"""Characters of a name; enough for a path, short enough for a table."""


class LrBounds(Value):
    """The LRs between which a search looks, those of the first parameter group."""

    min: float
    max: float

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> LrBounds:
        for lr in (self.min, self.max):
            if not SMALLEST_LR <= lr <= LARGEST_LR:
                raise ValueError(f"both bounds must be positive and finite, as (1e-4, 1.0); got {lr}")
        if self.min >= self.max:
            raise ValueError(f"the lower bound must lie below the upper; got ({self.min}, {self.max})")
        return self

    @property
    def log(self) -> tuple[float, float]:
        """The bounds in natural logarithms."""
        return math.log(self.min), math.log(self.max)

    @property
    def middle(self) -> float:
        """The geometric middle."""
        return math.sqrt(self.min * self.max)


FirstUpdates = Annotated[
    tuple[Annotated[float, pydantic.Field(ge=SMALLEST_UPDATE, le=LARGEST_UPDATE, allow_inf_nan=False)], ...],
    pydantic.Field(max_length=MAX_FIRST_UPDATES),
]


class StopWhen(Value):
    """What is still worth going on for. A run that would gain no more is annealed at once, and ends."""

    gain: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    """So much of the validation loss."""
    share: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """This part of what the run has gained by then, from its first validation on."""

    @pydantic.model_validator(mode="after")
    def _one_measure(self) -> StopWhen:
        if (self.gain is None) == (self.share is None):
            raise ValueError('give one of gain and share: stop_when=0.01 for a loss, stop_when="1%" for a share')
        return self


class JobConfig(Value):
    """A job, as its client describes it. `policy` and its options are checked by `core.policies`."""

    name: str = pydantic.Field(default="", max_length=MAX_NAME)
    family: str = pydantic.Field(default="", max_length=MAX_NAME)
    policy: str = ""
    """The algorithm; empty: the default for such a job."""
    policy_options: dict[str, Any] = pydantic.Field(default_factory=dict)
    total_steps: int | None = pydantic.Field(default=None, ge=1, le=MAX_STEPS)
    """Optimizer steps, search included; None: until the client stops, or `total_time_s` is over."""
    total_time_s: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds that the steps may take, search included; None: as long as they take."""
    lr_bounds: LrBounds | None = None
    """The range that is searched; None: a range test finds it."""
    base_lr: float = pydantic.Field(gt=0, allow_inf_nan=False)
    """The LR of the first parameter group as the user set it."""
    seed: int = pydantic.Field(default=0, ge=0, lt=2**63)
    has_validation: bool = False
    """Whether the client can validate."""
    measures: Measures = ()
    """What the client can measure at every step besides the loss, by name."""
    recorded: Measures = ()
    """What of it is measured at every committed step, whatever the policy asks for."""
    members: int = pydantic.Field(default=1, ge=1, le=MAX_MEMBERS)
    """How many probes the client can try at the same time. With several, each is tried on a replica of the model."""
    has_average: bool = False
    """Whether the client can keep an average of the weights."""
    first_updates: FirstUpdates = ()
    """By how much the updates 1, 2, 4, 8, ... of a fresh optimizer like the run's move a weight whose gradient is one,
    in units of the LR; empty: not known."""
    stop_when: StopWhen | None = None
    """None: the run goes on to its end, whatever that gains."""
    maximises: bool = False
    """Whether what is validated is the better the higher it is: validation losses are minus it, and are minimised."""

    @pydantic.field_validator("name", "family")
    @classmethod
    def _storable(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("a NUL character can't be stored")
        return value

    @pydantic.model_validator(mode="after")
    def _one_end(self) -> JobConfig:
        if self.total_steps is not None and self.total_time_s is not None:
            raise ValueError(f"total_time_s: {self.total_time_s:g} beside total_steps {self.total_steps}; give one")
        return self

    @pydantic.field_validator("stop_when")
    @classmethod
    def _can_tell(cls, stop_when: StopWhen | None, info: pydantic.ValidationInfo) -> StopWhen | None:
        if stop_when is not None and not info.data.get("has_validation", True):
            raise ValueError("it goes by validation losses, and this job has none; give the tuner validate")
        if stop_when is not None and info.data.get("total_time_s") is not None:
            raise ValueError("it counts in steps, and total_time_s does not tell how many; give total_steps, or no end")
        return stop_when

    @pydantic.field_validator("recorded")
    @classmethod
    def _can_be_measured(cls, recorded: Measures, info: pydantic.ValidationInfo) -> Measures:
        known = info.data.get("measures", ())
        if unknown := sorted(set(recorded) - set(known)):
            there_is = f"give some of {', '.join(known)}" if known else "leave it out"
            raise ValueError(f"this client can't measure {', '.join(unknown)}; {there_is}")
        if len(set(recorded)) < len(recorded):
            raise ValueError("a name is there twice; give each once")
        return recorded

    @pydantic.model_validator(mode="after")
    def _has_a_metric(self) -> JobConfig:
        if self.maximises and not self.has_validation:
            raise ValueError('mode: "max" is for what validate gives, and this job has none; give the tuner validate')
        return self

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> JobConfig:
        if len(set(self.measures)) < len(self.measures):
            raise ValueError(f"measures: a name is there twice; got {', '.join(self.measures)}")
        return self

    def metric(self, validation: float | None) -> float | None:
        """What the client's `validate` gave, of a validation as it is minimised; None of None."""
        return -validation if validation is not None and self.maximises else validation

    @classmethod
    def checked(cls, **fields: Any) -> JobConfig:
        """Makes a config from untrusted values.

        Raises:
            InvalidInputError: a field is wrong; it names each, with what would be right.
        """
        try:
            return cls(**fields)
        except pydantic.ValidationError as error:
            raise InvalidInputError.from_pydantic(error) from error
