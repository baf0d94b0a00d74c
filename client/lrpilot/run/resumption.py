"""Whether a run can go on from a checkpoint with other arguments. Pure."""

from __future__ import annotations

from google.protobuf import json_format

from lrpilot.errors import ConfigError
from lrpilot.v1 import tuner_pb2 as pb

FIXED = (
    "policy",
    "policy_options",
    "total_time_s",
    "stop_when",
    "lr_bounds",
    "seed",
    "has_validation",
    "members",
    "maximises",
)
"""Fields of a job that stay as they are: the search that they shaped is over, or has begun."""
_ARGUMENTS = {"has_validation": "validate", "maximises": "mode"}
"""What a tuner calls those that have another name there."""


def check_resumable(saved: pb.JobConfig, own: pb.JobConfig) -> None:
    """Refuses a checkpoint of a job that this tuner's arguments don't describe; another `total_steps` is no obstacle.

    Raises:
        ConfigError: an argument is not that of the checkpoint.
    """
    for name in FIXED:
        if getattr(saved, name) != getattr(own, name):
            field = _ARGUMENTS.get(name, name)
            raise ConfigError(
                f"{field}: {_shown(own, name)}, but the run of the checkpoint was begun with {_shown(saved, name)}; "
                "resume with that, or leave out load_state_dict to begin another run from these weights"
            )
    if saved.HasField("total_steps") and not own.HasField("total_steps"):
        raise ConfigError(
            f"total_steps: none, but the run of the checkpoint was begun with {saved.total_steps}; give that, or more"
        )


def same_budget(saved: pb.JobConfig, own: pb.JobConfig) -> bool:
    """Whether the run goes on to the end that it was planned for."""
    return saved.HasField("total_steps") == own.HasField("total_steps") and saved.total_steps == own.total_steps


def check_not_spent(total_steps: int, done: int) -> None:
    """Refuses a new budget that has been spent already. Raises: ConfigError."""
    if done > total_steps:
        raise ConfigError(
            f"total_steps: {total_steps}, but the run of the checkpoint has made {done} steps already, search "
            "included; give more"
        )


def _shown(config: pb.JobConfig, name: str) -> str:
    if name == "has_validation":
        return "given" if config.has_validation else "none"
    if name == "maximises":
        return '"max"' if config.maximises else '"min"'
    if name == "lr_bounds":
        bounds = config.lr_bounds
        return f"{bounds.min:g} to {bounds.max:g}" if config.HasField("lr_bounds") else "none"
    if name == "total_time_s":
        return f"{config.total_time_s:g}" if config.HasField("total_time_s") else "none"
    if name == "stop_when":
        worth = config.stop_when.WhichOneof("worth")
        return "none" if worth is None else f"a {worth} of {getattr(config.stop_when, worth):g}"
    if name == "policy_options":
        return str(json_format.MessageToDict(config.policy_options))
    return repr(getattr(config, name)) if getattr(config, name) != "" else "none"
