"""What the trainer process tells the demo: one JSON object a line."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic


class _Message(pydantic.BaseModel):
    # A loss may be infinite or no number, which JSON itself has no word for.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Progress(_Message):
    """Tells where a run is."""

    kind: Literal["progress"] = "progress"
    contestant: str
    seed: int
    stage: int
    """The stage, from 1; 0: there are none."""
    phase: str
    lr: float
    loss: float
    """Training loss of the last step."""
    tuning_loss: float | None
    """The loss on the tuning images as the tuner last saw it; None: it has not looked."""
    steps_left: int
    """Steps that are left, search included."""


class Result(_Message):
    """What a run came to."""

    kind: Literal["result"] = "result"
    contestant: str
    seed: int
    committed_steps: int
    search_steps: int
    validation_loss: float
    validation_accuracy: float
    wall_time_s: float
    cpu_time_s: float
    """The time of the trainer process; other processes on the machine don't count in it."""
    job_id: str | None
    """The tuner's job; None: the run had no tuner."""
    artifacts: list[str]
    """Files with the schedule that was found."""


class Refused(_Message):
    """The server did not accept the job."""

    kind: Literal["refused"] = "refused"
    message: str


Message = Annotated[Progress | Result | Refused, pydantic.Field(discriminator="kind")]
parser: pydantic.TypeAdapter[Progress | Result | Refused] = pydantic.TypeAdapter(Message)
"""Reads a line."""
