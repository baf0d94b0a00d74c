"""A job's description, from the tuner's arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

from lrpilot.arguments import as_number, shown
from lrpilot.errors import ConfigError
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.text.plain_text import refusal


def job_config(
    *,
    policy: str | None,
    policy_options: Mapping[str, Any] | None,
    lr_bounds: tuple[float, float] | None,
    total_steps: int | None,
    total_time_s: float | None = None,
    stop_when: float | str | None = None,
    seed: int,
    **fields: Any,
) -> pb.JobConfig:
    """The job as a message; the server checks what the values mean.

    Raises:
        ConfigError: a type is wrong, or a name has a character that nobody can see.
    """
    for field in ("name", "family"):
        if why := refusal(str(fields.get(field, ""))):
            raise ConfigError(f"{field}: {why}")
    options = struct_pb2.Struct()
    try:
        options.update(dict(policy_options or {}))
    except (TypeError, ValueError):
        raise ConfigError(
            f"policy_options: {shown(policy_options)}; give names with numbers, strings, booleans or None"
        ) from None
    bounds = None if lr_bounds is None else pb.LrBounds(min=lr_bounds[0], max=lr_bounds[1])
    worth = None if stop_when is None else _stop_when(stop_when)
    config = pb.JobConfig(policy_options=options, lr_bounds=bounds, stop_when=worth)
    ends = {"total_steps": total_steps, "total_time_s": total_time_s}
    for name, value in {"policy": policy or "", **ends, "seed": seed, **fields}.items():
        try:
            config.MergeFrom(pb.JobConfig(**{name: value}))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {shown(value)} can't be sent: {error}") from None
    return config


def _stop_when(value: float | str) -> pb.StopWhen:
    """What is still worth going on for: a loss, or a percentage. Raises: ConfigError: it is neither."""
    wanted = 'give a loss as 0.01, or a part of what the run has gained as "1%"'
    percent = isinstance(value, str) and value.strip().endswith("%")
    try:
        worth = float(str(value).strip()[:-1]) / 100 if percent else as_number(value)
    except ValueError:
        raise ConfigError(f"stop_when: {shown(value)}; {wanted}") from None
    if not (0 < worth < (1 if percent else math.inf)):
        raise ConfigError(f"stop_when: {shown(value)}; {wanted}")
    return pb.StopWhen(share=worth) if percent else pb.StopWhen(gain=worth)
