"""What the config of a new job has to keep to, beyond what stored ones do: they may be older than a rule."""

from __future__ import annotations

from typing import Any

from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.rpc import convert, untrusted

SMALLEST_BASE_LR, LARGEST_BASE_LR = 1e-24, 1e24
"""Limits of the LR that a user has set: what a policy searches around it stays inside the limits of bounds."""
LEAST_BOUNDS_RATIO = 1.0001
"""Bounds that are nearer to one another leave nothing to search."""
SHORTEST_RUN_S, LONGEST_RUN_S = 1e-3, 1e10
"""Limits of a run's time, far outside any: a step takes longer, and three hundred years are over."""


def admitted(message: pb.JobConfig) -> JobConfig:
    """The config of a job that is to be opened.

    Raises:
        InvalidInputError: it is refused, also where one that is stored already would be read.
    """
    config = convert.config_from_pb(message)
    untrusted.name("name", config.name)
    untrusted.name("family", config.family)
    untrusted.name("policy", config.policy)
    _check_option_texts(config.policy_options)
    if not SMALLEST_BASE_LR <= config.base_lr <= LARGEST_BASE_LR:
        wanted = f"{SMALLEST_BASE_LR:g} to {LARGEST_BASE_LR:g}, so that what is searched around it is a float"
        raise InvalidInputError.of("base_lr", f"{wanted}; not {config.base_lr:g}")
    if config.total_time_s is not None and not SHORTEST_RUN_S <= config.total_time_s <= LONGEST_RUN_S:
        wanted = f"{SHORTEST_RUN_S:g} to {LONGEST_RUN_S:g} seconds"
        raise InvalidInputError.of("total_time_s", f"{wanted}; not {config.total_time_s:g}")
    if config.lr_bounds is not None and config.lr_bounds.max < config.lr_bounds.min * LEAST_BOUNDS_RATIO:
        raise InvalidInputError.of("lr_bounds", f"the upper must be at least {LEAST_BOUNDS_RATIO} times the lower")
    return config


def _check_option_texts(value: Any) -> None:
    """Raises: InvalidInputError: a name or a text in a policy's options has an order to whoever shows it."""
    match value:
        case str():
            untrusted.name("policy_options", value, convert.MAX_OPTIONS_BYTES)
        case list():
            for each in value:
                _check_option_texts(each)
        case dict():
            for key, each in value.items():
                untrusted.name("policy_options", key)
                _check_option_texts(each)
